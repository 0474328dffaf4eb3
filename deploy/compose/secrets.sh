#!/bin/sh
# What docker-compose.yml keeps secret, made once: a certificate authority with the server's
# certificate, and the passwords of PostgreSQL and Grafana. What is there stays, but for a certificate
# of that authority that ends within 30 days: it is renewed. The authority lasts ten years.
set -eu
umask 077
root=/etc/featherwire

# Others than our own user read these, each in a volume of its own.
password() {
    [ -s "$1" ] && return
    python -c 'import secrets; print(secrets.token_urlsafe(24), end="")' >"$1.new"
    chmod 0444 "$1.new"
    mv "$1.new" "$1"
}

featherwire-cloud auth dev-ca "$root/keys" --name cloud --name localhost --if-missing \
    --renew-within 30
install -m 0444 "$root/keys/ca.pem" "$root/ca/ca.pem"
password "$root/database/password"
password "$root/grafana/password"
printf '*:*:featherwire:featherwire:%s\n' "$(cat "$root/database/password")" >"$root/keys/pgpass"
