#!/bin/sh
# The tokens of docker-compose.yml, made once: the operator's, and that of its camera.
set -eu
umask 077
root=/etc/featherwire
featherwire-cloud auth token create --role operator -o "$root/keys/operator.token" --if-missing
featherwire-cloud auth token create --role device --device compose-camera \
    -o "$root/camera/token" --if-missing
