# sh_module(NAME [used folders...] [LIBS imported targets...]):
# the static library sh_NAME from src/NAME/*.c.
function(sh_module name)
  cmake_parse_arguments(arg "" "" "LIBS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/src/${name}/*.c")
  if(NOT sources)
    add_library(sh_${name} INTERFACE)
    return()
  endif()
  add_library(sh_${name} STATIC ${sources})
  add_dependencies(sh_${name} shardherd_version)
  target_include_directories(sh_${name} PUBLIC "${PROJECT_SOURCE_DIR}/src")
  foreach(used ${arg_UNPARSED_ARGUMENTS})
    target_link_libraries(sh_${name} PUBLIC sh_${used})
  endforeach()
  target_link_libraries(sh_${name} PUBLIC ${arg_LIBS} Threads::Threads)
endfunction()

# sh_executable(NAME FOLDER): the program, if its folder has a main.c.
function(sh_executable name folder)
  if(EXISTS "${PROJECT_SOURCE_DIR}/src/${folder}/main.c")
    add_executable(${name} "${PROJECT_SOURCE_DIR}/src/${folder}/main.c")
    target_link_libraries(${name} PRIVATE sh_${folder})
  endif()
endfunction()

# sh_embed(FOLDER FILE SYMBOL): FILE of src/FOLDER as `const char SYMBOL[]`, NUL-terminated, and what tells its
# versions apart as `const char SYMBOL_md5[]`.
function(sh_embed folder file symbol)
  set(input "${PROJECT_SOURCE_DIR}/src/${folder}/${file}")
  set(output "${PROJECT_BINARY_DIR}/generated/${symbol}.c")
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${input}")
  file(READ "${input}" hex HEX)
  file(MD5 "${input}" md5)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
  string(REGEX REPLACE "(................................................................................)" "\\1\n" bytes "${bytes}")
  file(CONFIGURE OUTPUT "${output}" CONTENT
       "extern const char ${symbol}[];\nconst char ${symbol}[] = {\n${bytes}0x00};\nextern const char ${symbol}_md5[];\nconst char ${symbol}_md5[] = \"${md5}\";\n" @ONLY)
  target_sources(sh_${folder} PRIVATE "${output}")
endfunction()
