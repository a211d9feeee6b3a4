# One place for every flag; warnings are errors with gcc and clang alike.
option(SHARDHERD_LTO "link-time optimisation" OFF)
option(SHARDHERD_FUZZ "build the libFuzzer targets" OFF)
option(SHARDHERD_COVERAGE "gcov counters" OFF)
set(SHARDHERD_SANITIZE "" CACHE STRING "value for -fsanitize=")

set(CMAKE_C_STANDARD 11)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
add_compile_definitions(_GNU_SOURCE)
add_compile_options(
  -Wall -Wextra -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes
  -Wpointer-arith -Wcast-qual -Wundef -Wvla -Wformat=2 -Wimplicit-fallthrough
  -Werror -fno-common -fstack-protector-strong
  # paths of the machine that built must not reach the binary
  -ffile-prefix-map=${PROJECT_SOURCE_DIR}=. -fmacro-prefix-map=${PROJECT_SOURCE_DIR}=.)
if(CMAKE_BUILD_TYPE STREQUAL "RelWithDebInfo" OR CMAKE_BUILD_TYPE STREQUAL "Release")
  add_compile_options(-D_FORTIFY_SOURCE=2)
endif()
if(SHARDHERD_SANITIZE)
  add_compile_options(-fsanitize=${SHARDHERD_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${SHARDHERD_SANITIZE})
endif()
if(SHARDHERD_FUZZ)
  # coverage feedback from the libraries; tests/fuzz links the driver
  add_compile_options(-fsanitize=fuzzer-no-link)
  add_link_options(-fsanitize=fuzzer-no-link)
endif()
if(SHARDHERD_COVERAGE)
  add_compile_options(--coverage)
  add_link_options(--coverage)
endif()
if(SHARDHERD_LTO)
  include(CheckIPOSupported)
  check_ipo_supported(RESULT lto OUTPUT why LANGUAGES C)
  if(lto)
    set(CMAKE_INTERPROCEDURAL_OPTIMIZATION ON)
    if(CMAKE_C_COMPILER_ID STREQUAL "GNU")
      # with machine code as well, for those who link without: tests/CMakeLists.txt
      set(CMAKE_C_COMPILE_OPTIONS_IPO -flto=auto -ffat-lto-objects)
      # what these say depends on what each version of gcc sees through: no reason not to build
      add_compile_options(-Wno-error=maybe-uninitialized -Wno-error=format-truncation -Wno-error=restrict
        -Wno-error=stringop-overflow -Wno-error=stringop-truncation -Wno-error=array-bounds)
    endif()
    add_link_options(-ffile-prefix-map=${PROJECT_SOURCE_DIR}=.) # it writes debug information of its own
  else()
    message(WARNING "no link-time optimisation: ${why}")
  endif()
endif()
