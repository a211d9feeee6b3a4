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
