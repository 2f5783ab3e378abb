# Functions that the scripts of this folder share. Read by `source`, not run.

# Sets `folder` to the full path of folder $1, made empty. Ends the script if an earlier run
# completed the folder and the script has not changed since.
begin_folder() {
    mkdir -p "$1"
    folder=$(cd "$1" && pwd)
    [ ! "$folder/complete" -nt "$0" ] || exit 0
    rm -rf "${folder:?}"/*
}

# Marks `folder` as complete.
end_folder() {
    touch "$folder/complete"
}

# Unpacks packages of suite $1 into $folder/root; see debian-unpack.sh.
unpack() {
    local suite=$1
    shift
    root=$folder/root
    "$(dirname "$0")/debian-unpack.sh" "$suite" "$root" "$@"
}

# Makes program $1 run here with the libraries in `root`, which are of its own suite.
use_own_libraries() {
    local libraries=$root/usr/lib/x86_64-linux-gnu
    patchelf --set-interpreter "$libraries/ld-linux-x86-64.so.2" --force-rpath \
        --set-rpath "$libraries" "$1"
}

# Prints the URL of the Debian mirror that this machine uses.
mirror() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security \
        | head -n 1
}
