#!/usr/bin/env bash
# Builds the guests to WebAssembly: the plugins of this folder and those of tests/.
# They come to target/plugins/NAME.wasm, whatever CARGO_TARGET_DIR says.
#
#   plugins/build.sh [NAME...]     all, or those named (verify-signature, hostile, ...)
#
#   MILLSTREAM_WASM_TOOLCHAIN      rustup | debian; without it, the first of them that works
#   CARGO_TARGET_DIR               its folder `guests` takes what is built in between
set -euo pipefail

target=wasm32-unknown-unknown
cd "$(dirname "$0")/.."
root=$PWD
out=$root/target/plugins
target_dir=${CARGO_TARGET_DIR:-$root/target}/guests

say() { echo "plugins/build.sh: $*" >&2; }
die() { say "$*"; exit 1; }

# The compiler of the path, with the target that rustup brings (or that it has anyway).
use_rustup() {
    local libraries
    libraries=$(rustc --print target-libdir --target $target 2>/dev/null) || libraries=
    if ! compgen -G "$libraries/libstd-*.rlib" >/dev/null; then
        say "rustup target add $target"
        rustup target add $target >&2 || return 1
    fi
    toolchain="$(rustc --version), its own $target"
}

# Debian's compiler for the web, which builds the standard library from Debian's source of it.
use_debian() {
    command -v dpkg >/dev/null || return 1
    local missing=()
    for package in rustc-web rust-web-src; do
        dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
    done
    if [ ${#missing[@]} -gt 0 ]; then
        [ "$(id -u)" = 0 ] || die "cannot build for $target: as root, apt-get install ${missing[*]}"
        say "apt-get install ${missing[*]}"
        apt-get update -qq >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >&2 || return 1
    fi
    local linker
    linker=$(ls "$(rustc --print sysroot)"/lib/rustlib/*/bin/rust-lld 2>/dev/null | head -1) ||
        linker=$(command -v wasm-ld || command -v lld) ||
        die "no linker for $target: rust-lld of a rustup toolchain, or apt-get install lld"
    RUSTC=$(dpkg -L rustc-web | grep '/bin/rustc$' | head -1)
    [ -x "$RUSTC" ] || die "package rustc-web has no rustc"
    export RUSTC
    # -Zbuild-std is for nightly compilers, or for one that is told to be.
    export RUSTC_BOOTSTRAP=1
    export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=$linker
    build_std=(-Zbuild-std=std,panic_abort)
    toolchain="Debian's $("$RUSTC" --version), with the standard library built from source"
}

build_std=()
case ${MILLSTREAM_WASM_TOOLCHAIN:-} in
    rustup) use_rustup || die "rustup has no $target; MILLSTREAM_WASM_TOOLCHAIN=debian takes the other way" ;;
    debian) use_debian || die "Debian's packages rustc-web and rust-web-src cannot be had" ;;
    "") use_rustup || use_debian || die "no way to build for $target: neither rustup target add $target" \
            "nor apt-get install rustc-web rust-web-src works here" ;;
    *) die "MILLSTREAM_WASM_TOOLCHAIN is \"$MILLSTREAM_WASM_TOOLCHAIN\", expected rustup or debian" ;;
esac
say "with $toolchain"

# NAME of the file and package of each guest.
guests=()
for manifest in plugins/*/Cargo.toml tests/hostile/Cargo.toml tests/guests/*/Cargo.toml; do
    package=$(sed -n 's/^name = "\(.*\)"/\1/p' "$manifest" | head -1)
    name=${package#millstream-}
    name=${name#plugin-}
    [ $# -eq 0 ] || [[ " $* " == *" $name "* ]] || continue
    guests+=("$name=$package")
done
[ ${#guests[@]} -gt 0 ] || die "no guest is named $*"
[ $# -eq 0 ] || [ ${#guests[@]} -eq $# ] || die "not all of these are guests: $*"

# Inlining: the engine checks time and stack at every call, so calls cost more than natively. JSON
# filter of 300 bytes: 780 ns at the compiler's own threshold (225), 605 at 600, 535 at 1200; the
# module grows by 0, 18 and 38 %.
# Paths: nothing in a module tells where it was built, so that its digest is the same everywhere.
export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS="-Cllvm-args=--inline-threshold=600 \
--remap-path-prefix=$root=/millstream \
--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"

mkdir -p "$out"
for guest in "${guests[@]}"; do
    name=${guest%%=*} package=${guest#*=}
    # One at a time: built together, each would get the features that any of them asks of a
    # common dependency.
    cargo build --quiet --locked --package "$package" --profile plugin --target $target \
        --target-dir "$target_dir" ${build_std[@]+"${build_std[@]}"}
    built=$target_dir/$target/plugin/${package//-/_}.wasm
    if ! cmp -s "$built" "$out/$name.wasm"; then
        cp "$built" "$out/$name.wasm.new"
        mv "$out/$name.wasm.new" "$out/$name.wasm"
    fi
    digest=$( (sha256sum "$out/$name.wasm" 2>/dev/null || shasum -a 256 "$out/$name.wasm") | cut -d' ' -f1)
    printf '%-20s %8d bytes  sha256 %s\n' "$name" "$(wc -c <"$out/$name.wasm")" "$digest"
done
