#!/usr/bin/env python
"""Print what one participant of a commons may do in its bucket, as a policy of S3.

    python scripts/commons_policy.py s3://bucket/mine 00112233445566778899aabbccddeeff
    python scripts/commons_policy.py s3://bucket/mine --maintainer
    python scripts/commons_policy.py s3://bucket/mine --maintainer --for seaweedfs

A volunteer reads everything, writes into the folder of their own key, and makes claims and ends of
rounds where none stands: the condition refuses a write without If-None-Match, so nobody writes over
one. A maintainer writes everywhere. Attach it to the user whose credentials the participant gets.

SeaweedFS does not know that condition and refuses what asks for it, every claim then. So for it the
condition is left out, and the policy stands in what the file of `-s3.config` takes: a user without
credentials yet, whom it names.
"""

import argparse
import json
import re
import sys


def policy(
    bucket: str, folder: str, keys: list[str], *, conditional: bool = True
) -> dict[str, object]:
    """Make the policy of a volunteer with these fingerprints, or of a maintainer without.

    Unless it is `conditional`, a claim may be written over: for servers without that condition.
    """
    arn = f"arn:aws:s3:::{bucket}"
    root = f"{arn}/{folder}"
    own = [f"{root}/commons/people/{key}/*" for key in keys] or [f"{root}/*"]
    parts = ["s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    statements: list[dict[str, object]] = [
        {
            "Sid": "List",
            "Effect": "Allow",
            "Action": "s3:ListBucket",
            "Resource": arn,
            "Condition": {"StringLike": {"s3:prefix": [folder, f"{folder}/*"]}},
        },
        {"Sid": "Read", "Effect": "Allow", "Action": "s3:GetObject", "Resource": f"{root}/*"},
        {
            "Sid": "Own",
            "Effect": "Allow",
            "Action": ["s3:PutObject", "s3:DeleteObject", *parts],
            "Resource": own,
        },
    ]
    if keys:
        claim: dict[str, object] = {
            "Sid": "Claim",
            "Effect": "Allow",
            "Action": "s3:PutObject",
            "Resource": [f"{root}/commons/{part}/*" for part in ("claims", "rounds")],
        }
        if conditional:
            claim["Condition"] = {"Null": {"s3:if-none-match": "false"}}
        statements.append(claim)
    return {"Version": "2012-10-17", "Statement": statements}


def seaweedfs(name: str, made: dict[str, object]) -> dict[str, list[dict[str, object]]]:
    """Put a policy into what SeaweedFS reads of its users: a user `name`, whom it binds."""
    user: dict[str, object] = {"name": name, "credentials": [], "policyNames": [name]}
    return {"identities": [user], "policies": [{"name": name, "content": json.dumps(made)}]}


def main() -> None:
    """Print the policy that the words ask for."""
    words = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    words.add_argument("url", help="s3://bucket/folder")
    words.add_argument("keys", nargs="*", help="fingerprints of a volunteer's keys")
    words.add_argument("--maintainer", action="store_true")
    words.add_argument("--for", dest="server", choices=("aws", "seaweedfs"), default="aws")
    given = words.parse_args()
    url = re.fullmatch(r"s3://([a-z0-9.-]{3,63})/([\w.+@=-]+(?:/[\w.+@=-]+)*)/?", given.url)
    if url is None:
        sys.exit(f"{given.url}: wanted s3://bucket/folder")
    if given.maintainer == bool(given.keys):
        sys.exit("wanted the fingerprint of a key, or --maintainer")
    for key in given.keys:
        if not re.fullmatch(r"[0-9a-f]{32}", key):
            sys.exit(f"{key}: wanted a fingerprint, 32 hexadecimal digits (btm commons join)")
    plain = given.server == "aws"
    made = policy(url[1], url[2], given.keys, conditional=plain)
    name = given.keys[0] if given.keys else "maintainer"
    print(json.dumps(made if plain else seaweedfs(name, made), indent=1))


if __name__ == "__main__":
    main()
