"""Checks assertions of nginx, by PyJWT with cryptography."""

import json
import sys

import jwt

TYPE = "authgear-assertion+jwt"
REQUIRED = ["iss", "aud", "sub", "iat", "exp"]


def check(assertion, keys, issuer, audience):
    """Returns the claims, or raises jwt.PyJWTError."""
    header = jwt.get_unverified_header(assertion)
    key = next((key for key in keys if key["kid"] == header.get("kid")), None)
    if header.get("typ") != TYPE or key is None:
        raise jwt.InvalidTokenError("another type or key")
    # The algorithm is that of the key, whatever the header says.
    return jwt.decode(
        assertion,
        jwt.PyJWK(key).key,
        algorithms=[key["alg"]],
        issuer=issuer,
        audience=audience,
        leeway=5,
        options={"require": REQUIRED},
    )


def main():
    """Prints a line for each assertion of the input: KEYS ISSUER AUDIENCE."""
    file, issuer, audience = sys.argv[1:]
    with open(file, encoding="utf-8") as text:
        keys = json.load(text)["keys"]
    for line in sys.stdin:
        try:
            claims = check(line.strip(), keys, issuer, audience)
            print("accepted", claims["sub"])
        except jwt.PyJWTError:
            print("refused")


if __name__ == "__main__":
    main()
