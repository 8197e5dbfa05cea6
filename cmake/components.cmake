# tessera::io, tessera::data, tessera::scenes: what the headers of single folders link to. Each is made where its
# libraries are found, and programs that need an absent one say so at configuration.
tessera_find_libraries(io data scenes)

function(tessera_add_component component)
  add_library(tessera_${component} INTERFACE)
  add_library(tessera::${component} ALIAS tessera_${component})
  set_target_properties(tessera_${component} PROPERTIES EXPORT_NAME ${component})
  target_link_libraries(tessera_${component} INTERFACE ${ARGN})
endfunction()

# io/: safetensors, checkpoints (JSON); systems/, train/ and segmentation/ need it too
if(NOT tessera_missing_io)
  tessera_add_component(io tessera_headers nlohmann_json::nlohmann_json)
endif()

# data/: pictures, tokenizer, shards; systems/, train/ and segmentation/ need it too
if(TARGET tessera_io AND NOT tessera_missing_data)
  tessera_add_component(data tessera_io tessera_utf8proc LibArchive::LibArchive PNG::PNG JPEG::JPEG ZLIB::ZLIB)
endif()

# data/scenes.hpp: rendered scenes (colour glyphs by FreeType)
if(TARGET tessera_data AND NOT tessera_missing_scenes)
  tessera_add_component(scenes tessera_data Freetype::Freetype)
endif()

foreach(component io data scenes)
  if(tessera_missing_${component})
    list(JOIN tessera_missing_${component} ", " missing)
    message(STATUS "tessera: no component ${component}; not found: ${missing}")
  endif()
endforeach()
