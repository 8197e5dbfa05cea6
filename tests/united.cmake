# Tests that are compiled together, in one file that includes them, where TESSERA_UNITED_TESTS is ON: most of a test's
# compile time goes into templates that its neighbours instantiate too, so the suite builds in about half the time. Nothing
# else changes: ctest still runs each file's tests in a process of its own, chosen by the file's name, and the program of a
# single test can be built as ever. Names of helpers must differ within a group; a test in no group is a program of its own.
# No group should take g++ more than a minute.
set(united_core core/dtype core/math core/parallel core/random core/shape core/tensor)
set(united_io io/checkpoint io/files io/json io/safetensors io/tensor_source)
set(united_fuzz fuzz/images fuzz/json fuzz/safetensors fuzz/tokenizer)
set(united_data_1 data/captions data/image data/photos data/tokenizer)
set(united_data_2 data/resize data/scenes_shards)
set(united_data_3 data/superpixel_store data/superpixels)
set(united_ops_1 ops/contrastive_multi_text ops/embedding ops/layernorm ops/matmul ops/patches ops/rearrange ops/softmax)
set(united_ops_2 ops/attention ops/interpolate ops/pair_compatibility ops/reduce ops/similarity ops/tokens
  ops/upsample_argmax)
set(united_ops_3 ops/contrastive ops/cross_entropy ops/elementwise ops/elementwise_gradients)
set(united_ops_4 ops/assignment_pool ops/gumbel_softmax ops/masked_mse)
set(united_nn nn/layers nn/text_transformer nn/transformer nn/vision_transformer)
set(united_training autograd/gradcheck autograd/recompute autograd/tape optim/adamw optim/ema optim/gradient_clipping
  optim/schedule)
set(united_golden_1 golden/clip golden/maskclip_dense golden/optimiser golden/pacl golden/sliding_miou golden/unclaimed)
set(united_golden_2 golden/felzenszwalb golden/interpolate golden/resize golden/tokenizer)
set(united_systems_1 systems/clip systems/clip_checkpoint)
set(united_systems_2 systems/maskclip systems/pacl)
set(united_segmentation_1 segmentation/classes segmentation/prompts)
set(united_segmentation_2 segmentation/correspondences segmentation/metrics segmentation/overlay segmentation/predictor segmentation/windows)
set(united_train train/batches train/features train/progress train/report train/text_batch train/trainer)
set(united_kernels_1 kernels/adamw kernels/attention kernels/cross_entropy kernels/embedding kernels/layernorm kernels/reduce)
set(united_kernels_2 kernels/contrastive kernels/elementwise kernels/interpolate kernels/patches kernels/rearrange
  kernels/tokens)
set(united_kernels_3 kernels/matmul kernels/pair_compatibility kernels/similarity kernels/softmax kernels/upsample_argmax)
set(united_kernels_4 kernels/assignment_pool kernels/gumbel_softmax kernels/masked_mse)
set(united_groups core io fuzz data_1 data_2 data_3 ops_1 ops_2 ops_3 ops_4 nn training golden_1 golden_2 systems_1 systems_2
  segmentation_1 segmentation_2 train kernels_1 kernels_2 kernels_3 kernels_4)
