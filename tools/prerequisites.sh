# Sourced by the scripts that people run: installs Debian packages that are missing, or says which line would.
# Usage: tessera_install <package>...   Sets package_seconds to the time that it took.

tessera_install() {
  local started missing=() package
  started=$(date +%s)
  if ! command -v dpkg-query >/dev/null 2>&1; then
    echo "tessera: this machine has no dpkg; install the equivalents of: $*" >&2
    return 0
  fi
  for package in "$@"; do
    dpkg-query -W -f='${Status}\n' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$package")
  done
  if [ ${#missing[@]} -gt 0 ]; then
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
      if ! command -v sudo >/dev/null 2>&1 || ! sudo -n true 2>/dev/null && ! [ -t 0 ]; then
        echo "tessera: packages are missing and installing them needs root. Run this, then start again:" >&2
        echo "  apt-get update && apt-get install -y --no-install-recommends ${missing[*]}" >&2
        return 1
      fi
      as_root=(sudo)
    fi
    echo "tessera: installing ${missing[*]}"
    if ! "${as_root[@]}" apt-get update -qq; then
      echo "tessera: apt-get update failed; trying with the package lists at hand" >&2
    fi
    if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; then
      echo "tessera: apt-get could not install: ${missing[*]}" >&2
      return 1
    fi
  fi
  package_seconds=$(($(date +%s) - started))
}

# What building the library, its programs and its tests needs.
tessera_build_packages=(g++ cmake ninja-build libeigen3-dev libdnnl-dev nlohmann-json3-dev libutf8proc-dev
  libarchive-dev libpng-dev libjpeg-dev zlib1g-dev libfreetype-dev libcli11-dev fonts-noto-color-emoji)
tessera_test_packages=(catch2 unicode-data pkg-config)

# How many compilers may run at once: one a core, as far as memory goes (a file needs up to 1.5 GiB).
tessera_jobs() {
  local cores memory
  cores=$(nproc)
  memory=$(awk '/MemAvailable/ {print int($2 / 1500000)}' /proc/meminfo 2>/dev/null || echo "$cores")
  [ "$memory" -lt 1 ] && memory=1
  [ "$memory" -lt "$cores" ] && echo "$memory" || echo "$cores"
}
