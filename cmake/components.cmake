# Libraries behind single folders. A program that uses these headers links the component; each is made where its
# libraries are found, and programs that need an absent one say so at configuration.
find_package(nlohmann_json 3.11 QUIET)
find_package(PkgConfig QUIET)
find_package(LibArchive QUIET)
find_package(PNG QUIET)
find_package(JPEG QUIET)
find_package(Freetype QUIET)
find_package(ZLIB QUIET)
if(PkgConfig_FOUND)
  pkg_check_modules(utf8proc QUIET IMPORTED_TARGET libutf8proc)
endif()
find_path(TESSERA_STB_INCLUDE_DIR stb_image.h PATH_SUFFIXES stb)

# io/: safetensors, checkpoints (JSON)
if(nlohmann_json_FOUND)
  add_library(tessera_io INTERFACE)
  add_library(tessera::io ALIAS tessera_io)
  set_target_properties(tessera_io PROPERTIES EXPORT_NAME io)
  target_link_libraries(tessera_io INTERFACE tessera_headers nlohmann_json::nlohmann_json)
endif()

# data/: images, tokenizer, shards
if(TARGET tessera_io AND PNG_FOUND AND JPEG_FOUND AND ZLIB_FOUND AND LibArchive_FOUND AND TARGET PkgConfig::utf8proc
   AND TESSERA_STB_INCLUDE_DIR)
  add_library(tessera_data INTERFACE)
  add_library(tessera::data ALIAS tessera_data)
  set_target_properties(tessera_data PROPERTIES EXPORT_NAME data)
  target_include_directories(tessera_data SYSTEM INTERFACE ${TESSERA_STB_INCLUDE_DIR})
  target_link_libraries(tessera_data INTERFACE tessera_io PkgConfig::utf8proc LibArchive::LibArchive PNG::PNG JPEG::JPEG ZLIB::ZLIB)
endif()

# data/scenes.hpp: rendered scenes (colour glyphs by FreeType)
if(TARGET tessera_data AND FREETYPE_FOUND)
  add_library(tessera_scenes INTERFACE)
  add_library(tessera::scenes ALIAS tessera_scenes)
  set_target_properties(tessera_scenes PROPERTIES EXPORT_NAME scenes)
  target_link_libraries(tessera_scenes INTERFACE tessera_data Freetype::Freetype)
endif()
