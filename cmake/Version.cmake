# --version names the commit; SOURCE_COMMIT overrides it for a build outside git.
set(SHARDHERD_COMMIT "$ENV{SOURCE_COMMIT}")
if(NOT SHARDHERD_COMMIT)
  execute_process(COMMAND git -C "${PROJECT_SOURCE_DIR}" describe --always --dirty --abbrev=12
                  OUTPUT_VARIABLE SHARDHERD_COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
if(NOT SHARDHERD_COMMIT)
  set(SHARDHERD_COMMIT "unknown")
endif()
configure_file("${PROJECT_SOURCE_DIR}/cmake/version.h.in" "${PROJECT_BINARY_DIR}/generated/version.h" @ONLY)
include_directories("${PROJECT_BINARY_DIR}/generated")
