"""An AWS Lambda function for the bucket of a share: what arrived, by whom, with which permissions.

Wire it to the bucket's events ObjectCreated:* (directly, or through SQS or SNS). Tidegate raises one event per saved file: Put, or
CompleteMultipartUpload for a large one; ObjectCreated:Copy says that a file was renamed or that only its attributes changed.
"""

import json
import urllib.parse


def records(event):
    """The S3 records of an event, whether it came directly, through SQS or through SNS."""
    for record in event.get("Records", []):
        if "s3" in record:
            yield record
        elif "body" in record:  # SQS
            yield from records(json.loads(record["body"]))
        elif "Sns" in record:
            yield from records(json.loads(record["Sns"]["Message"]))


def handler(event, context):
    """Returns a line for each file that was saved, renamed or changed."""
    saved = []
    for record in records(event):
        key = urllib.parse.unquote_plus(record["s3"]["object"]["key"])
        # Directories are objects whose key ends in "/"; what is below .tidegate/ is the gateway's own.
        if key.endswith("/") or ".tidegate/" in key:
            continue
        what = record["eventName"].removeprefix("s3:").removeprefix("ObjectCreated:")
        saved.append(
            {
                "path": key,
                "bucket": record["s3"]["bucket"]["name"],
                "bytes": record["s3"]["object"].get("size", 0),
                "what": "attributes or name" if what == "Copy" else "content",
            }
        )
    return {"saved": saved}
