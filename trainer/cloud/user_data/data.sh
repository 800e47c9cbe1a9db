# shellcheck shell=bash
# A small machine without a GPU: makes a file system on an empty volume, a data set on that, and looks at every image.
# Follows machine.sh. Wants Python 3.11 or newer (Ubuntu 24.04, Debian 12), and 20 GB of the root disk; 200 GB for what
# has to be downloaded whole (kaggle, torrents).

run() {
    report preparing
    if [ -e "$STATE/ready" ] || attempt prepare; then
        report ready "$(cat "$STATE/ready")"
    else
        report failed "$(why)"
    fi
    power_off +2 # so long, its last line can still be read from a console that runs
}

prepare() {
    tools
    checkout "$REVISION"
    ./scripts/install
    mount_volume
    fill "$VOLUME/data"
    python3 -c 'import json, sys; print("images=%d" % sum(json.load(sys.stdin)["counts"].values()))' \
        <"$VOLUME/data/dataset.json" >"$STATE/images"
    umount "$VOLUME" # all is on the volume: a snapshot of it is whole
    mv "$STATE/images" "$STATE/ready"
}

tools() {
    local tool needed=(git curl pip3)
    [[ ${SOURCE[*]} != *magnet:* && ${SOURCE[*]} != *.torrent ]] || needed+=(aria2c)
    for tool in "${needed[@]}"; do
        command -v "$tool" >/dev/null || {
            dpkg --configure -a # where an apt-get was killed
            apt-get -qq update
            apt-get -qq -y -o DPkg::Lock::Timeout=600 install git curl aria2 python3-pip >/dev/null
            return
        }
    done
}

mount_volume() { # makes a file system only where there is nothing at all
    mountpoint -q "$VOLUME" && return
    local disk
    disk=$(wait_for_volume)
    if [ -z "$(wipefs "$disk")" ]; then
        mkfs.ext4 -q -m 0 -L "$LABEL" "$disk"
    elif [ "$(blkid -o value -s LABEL "$disk")" != "$LABEL" ]; then
        fail "the volume $DEVICE is not empty, and not ours: it stays as it is; give an empty one"
    fi
    mkdir -p "$VOLUME"
    mount "$disk" "$VOLUME"
}

fill() { # fill DIR: each of these goes on where it was
    local trainer=$CHECKOUT/.venv/bin/trainer words=("${SOURCE[@]}") downloads=/var/tmp/trainer-downloads lines line
    lines=$(secrets "$SECRETS")
    while read -r line; do # HF_TOKEN, KAGGLE_USERNAME, KAGGLE_KEY
        [ -z "$line" ] || export "${line?}"
    done <<<"$lines"
    mkdir -p "$downloads"
    case ${words[*]} in
        kaggle)
            # six: kaggle 2.2.5 imports it and does not ask for it
            PATH=$CHECKOUT/.uv/bin:$PATH uv tool run --quiet --with six kaggle competitions download --quiet \
                --path "$downloads" imagenet-object-localization-challenge
            words=(kaggle "$downloads/imagenet-object-localization-challenge.zip")
            ;;
        *magnet:* | *.torrent) words+=(--downloads "$downloads") ;;
    esac
    if [ "${words[0]}" = fetch ]; then
        "$trainer" "${words[@]}" --out "$1"
    else
        "$trainer" prepare "${words[@]}" ${SHORTER_SIDE:+--shorter-side "$SHORTER_SIDE"} --out "$1"
    fi
    "$trainer" check "$1" --decode
}

main "$@"
