# --version names the commit, at the time of the build, not of the configuration: a new commit makes a new header.
# SOURCE_COMMIT overrides it for a build outside git.
# This file is also the script that writes the header: cmake -DOUTPUT=... -DROOT=... -P cmake/Version.cmake
if(CMAKE_SCRIPT_MODE_FILE)
  set(SHARDHERD_COMMIT "${COMMIT}")
  if(NOT SHARDHERD_COMMIT)
    execute_process(COMMAND git -C "${ROOT}" describe --always --dirty --abbrev=12
                    OUTPUT_VARIABLE SHARDHERD_COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
  if(NOT SHARDHERD_COMMIT)
    set(SHARDHERD_COMMIT "unknown")
  endif()
  configure_file("${ROOT}/cmake/version.h.in" "${OUTPUT}" @ONLY) # untouched when nothing changed
  return()
endif()

add_custom_target(shardherd_version
  COMMAND "${CMAKE_COMMAND}" "-DROOT=${PROJECT_SOURCE_DIR}" "-DOUTPUT=${PROJECT_BINARY_DIR}/generated/version.h"
          "-DPROJECT_VERSION=${PROJECT_VERSION}" "-DCOMMIT=$ENV{SOURCE_COMMIT}"
          -P "${CMAKE_CURRENT_LIST_DIR}/Version.cmake"
  BYPRODUCTS "${PROJECT_BINARY_DIR}/generated/version.h"
  COMMENT "commit of --version"
  VERBATIM)
include_directories("${PROJECT_BINARY_DIR}/generated")
