# The libraries, each as an imported target. What the distribution does not have,
# scripts/install-deps unpacks under build/deps, which is searched as well.
set(SHARDHERD_DEPS_DIR "${PROJECT_SOURCE_DIR}/build/deps" CACHE PATH
    "where scripts/install-deps unpacks libraries that the distribution lacks")

find_package(OpenSSL 3.0 REQUIRED)
find_package(Threads REQUIRED)

function(sh_find_library target header library)
  string(TOUPPER "${library}" upper)
  find_path(SH_${upper}_INCLUDE ${header}
            HINTS "${SHARDHERD_DEPS_DIR}/usr/include" PATH_SUFFIXES postgresql)
  find_library(SH_${upper}_LIBRARY NAMES ${library}
               HINTS "${SHARDHERD_DEPS_DIR}/usr/lib" "${SHARDHERD_DEPS_DIR}/usr/lib/${CMAKE_LIBRARY_ARCHITECTURE}")
  if(NOT SH_${upper}_INCLUDE OR NOT SH_${upper}_LIBRARY)
    message(FATAL_ERROR "${library} (${header}) not found: run scripts/install-deps first")
  endif()
  add_library(${target} UNKNOWN IMPORTED GLOBAL)
  set_target_properties(${target} PROPERTIES
    IMPORTED_LOCATION "${SH_${upper}_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${SH_${upper}_INCLUDE}")
endfunction()

sh_find_library(UV::uv uv.h uv)
sh_find_library(LLHTTP::llhttp llhttp.h llhttp)
sh_find_library(YYJSON::yyjson yyjson.h yyjson)
sh_find_library(YAML::yaml yaml.h yaml)
sh_find_library(ZLIB::z zlib.h z)
sh_find_library(SQLite::SQLite3 sqlite3.h sqlite3)
sh_find_library(PostgreSQL::PostgreSQL libpq-fe.h pq)
