// Prompt templates by name: the sentences into which systems put a class name before the text encoder sees it. "{}" is
// the name's place, "{article}" becomes "a" or "an". Data for segmentation/prompts.hpp.
#pragma once
#include <array>
#include <span>
#include <string_view>

namespace tessera::segmentation::detail {

// CLIP's 80 templates for ImageNet (Radford et al. 2021).
inline constexpr std::string_view imagenet_templates[] = {
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a plushie {}.",
    "a photo of the nice {}.",
    "a photo of the small {}.",
    "a photo of the weird {}.",
    "the cartoon {}.",
    "art of the {}.",
    "a drawing of the {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.",
    "graffiti of the {}.",
    "a toy {}.",
    "itap of my {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "a tattoo of the {}.",
};

// Sentences about a scene, which MaskCLIP (Zhou et al. 2022) adds to CLIP's 80.
inline constexpr std::string_view scene_templates[] = {
    "there is a {} in the scene.",  "there is the {} in the scene.", "this is a {} in the scene.",
    "this is the {} in the scene.", "this is one {} in the scene.",
};

// The seven that together serve CLIP about as well as all 80.
inline constexpr std::string_view clip_seven_templates[] = {
    "itap of a {}.",  "a bad photo of the {}.",   "a origami {}.", "a photo of the large {}.", "a {} in a video game.",
    "art of the {}.", "a photo of the small {}.",
};

// The same as GroupViT (Xu et al. 2022) writes them: the second differs.
inline constexpr std::string_view groupvit_seven_templates[] = {
    "itap of a {}.",  "a bad photo of a {}.",     "a origami {}.", "a photo of the large {}.", "a {} in a video game.",
    "art of the {}.", "a photo of the small {}.",
};

// The same as reported for PACL (Mukhoti et al. 2023): the fifth differs.
inline constexpr std::string_view pacl_seven_templates[] = {
    "itap of a {}.",  "a bad photo of the {}.",   "a origami {}.", "a photo of the large {}.", "{} in a video game.",
    "art of the {}.", "a photo of the small {}.",
};

inline constexpr std::string_view tcl_plural_templates[] = {"a photo of many {}.", "a photo of {}s."};
inline constexpr std::string_view simple_template[] = {"a photo of a {}."};
inline constexpr std::string_view plural_template[] = {"a photo of {}s."};
inline constexpr std::string_view name_alone[] = {"{}"};
inline constexpr std::string_view pixelclip_template[] = {"A photo of a {} in the scene"};
inline constexpr std::string_view pacl_training_templates[] = {
    "a picture of {}.", "itap of {}.", "a photograph of {}.", "this picture contains {}.", "a good photo of {}.",
};

// ViLD (Gu et al. 2022), for open-vocabulary detection.
inline constexpr std::string_view vild_templates[] = {
    "There is {article} {} in the scene.",
    "There is the {} in the scene.",
    "a photo of {article} {} in the scene.",
    "a photo of the {} in the scene.",
    "a photo of one {} in the scene.",
    "itap of {article} {}.",
    "itap of my {}.",
    "itap of the {}.",
    "a photo of {article} {}.",
    "a photo of my {}.",
    "a photo of the {}.",
    "a photo of one {}.",
    "a photo of many {}.",
    "a good photo of {article} {}.",
    "a good photo of the {}.",
    "a bad photo of {article} {}.",
    "a bad photo of the {}.",
    "a photo of a nice {}.",
    "a photo of the nice {}.",
    "a photo of a cool {}.",
    "a photo of the cool {}.",
    "a photo of a weird {}.",
    "a photo of the weird {}.",
    "a photo of a small {}.",
    "a photo of the small {}.",
    "a photo of a large {}.",
    "a photo of the large {}.",
    "a photo of a clean {}.",
    "a photo of the clean {}.",
    "a photo of a dirty {}.",
    "a photo of the dirty {}.",
    "a bright photo of {article} {}.",
    "a bright photo of the {}.",
    "a dark photo of {article} {}.",
    "a dark photo of the {}.",
    "a photo of a hard to see {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of {article} {}.",
    "a low resolution photo of the {}.",
    "a cropped photo of {article} {}.",
    "a cropped photo of the {}.",
    "a close-up photo of {article} {}.",
    "a close-up photo of the {}.",
    "a jpeg corrupted photo of {article} {}.",
    "a jpeg corrupted photo of the {}.",
    "a blurry photo of {article} {}.",
    "a blurry photo of the {}.",
    "a pixelated photo of {article} {}.",
    "a pixelated photo of the {}.",
    "a black and white photo of the {}.",
    "a black and white photo of {article} {}.",
    "a plastic {}.",
    "the plastic {}.",
    "a toy {}.",
    "the toy {}.",
    "a plushie {}.",
    "the plushie {}.",
    "a cartoon {}.",
    "the cartoon {}.",
    "an embroidered {}.",
    "the embroidered {}.",
    "a painting of the {}.",
    "a painting of a {}.",
};

struct KnownPromptSet {
  std::string_view name, used_by;
  bool normalise_each;
  std::span<const std::string_view> templates, more_templates;
};

inline constexpr std::array<KnownPromptSet, 15> known_prompt_sets = {{
    {"imagenet80", "CLIP's zero-shot classification; SCLIP", true, imagenet_templates, {}},
    {"clip_best7", "CLIP, seven of the 80", true, clip_seven_templates, {}},
    {"maskclip85", "MaskCLIP", true, imagenet_templates, scene_templates},
    {"maskclip5", "TCL's option \"maskclip\"", false, scene_templates, {}},
    {"simple1", "GroupViT and SegCLIP", false, simple_template, {}},
    {"groupvit_subset7", "GroupViT's and TCL's option \"subset\"", false, groupvit_seven_templates, {}},
    {"subset_maskclip12", "TCL's option \"subset+maskclip\"", false, groupvit_seven_templates, scene_templates},
    {"tcl_custom9", "TCL and MGCA", false, groupvit_seven_templates, tcl_plural_templates},
    {"plural1", "TCL's option \"plural\"", false, plural_template, {}},
    {"identity1", "the name alone", false, name_alone, {}},
    {"pixelclip_single1", "PixelCLIP in training", true, pixelclip_template, {}},
    {"pixelclip_imagenet_select8", "PixelCLIP in evaluation", true, clip_seven_templates, pixelclip_template},
    {"vild63", "ViLD", true, vild_templates, {}},
    {"pacl7_reported", "PACL, as reported by others", false, pacl_seven_templates, {}},
    {"nms05_pacl_train5",
     "an unofficial PACL in training, one at random for each noun",
     false,
     pacl_training_templates,
     {}},
}};

}  // namespace tessera::segmentation::detail
