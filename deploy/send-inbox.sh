#!/bin/sh
# Send every file of a folder to the server, then move what was taken into another folder.
#   send-inbox.sh INBOX SENT HOST:PORT [options of `featherwire-edge send`]
# A photo that fails stays in the inbox; the exit code is that of the worst failure.
set -u
if [ "$#" -lt 3 ]; then
    sed -n '2,4s/^# //p' "$0" >&2
    exit 2
fi
inbox=$1 sent=$2 server=$3
shift 3
mkdir -p "$sent" || exit 1
worst=0
for photo in "$inbox"/*; do
    [ -f "$photo" ] || continue
    code=0
    featherwire-edge send "$photo" --server "$server" "$@" || code=$?
    if [ "$code" -eq 0 ]; then
        mv -- "$photo" "$sent/" || code=1
    fi
    [ "$code" -gt "$worst" ] && worst=$code
    # The server is away (4) or something is not installed (3): the next photo would fail alike.
    [ "$code" -ge 3 ] && break
done
exit "$worst"
