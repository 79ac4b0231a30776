"""What boto3 expects of an S3, asked of the endpoint in AWS_ENDPOINT_URL. Prints each case, and `all passed` at the end."""

import base64
import hashlib
import random
import sys
import time
import traceback
import urllib.error
import urllib.request

import boto3
from botocore.client import Config
from botocore.exceptions import ClientError

MIB = 1 << 20
s3 = boto3.client("s3", config=Config(s3={"addressing_style": "path"}, signature_version="s3v4"))


def noise(seed, size):
    return random.Random(seed).randbytes(size)


def fails(code, call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        got = error.response["Error"]["Code"]
        assert got == code, f"{got} instead of {code}"
        return error.response
    raise AssertionError(f"no {code}")


def body(**arguments):
    return s3.get_object(**arguments)["Body"].read()


def buckets(b):
    fails("BucketAlreadyOwnedByYou", s3.create_bucket, Bucket=b)
    fails("404", s3.head_bucket, Bucket="nowhere")
    fails("NoSuchBucket", s3.list_objects_v2, Bucket="nowhere")
    assert b in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
    assert s3.get_bucket_location(Bucket=b)["LocationConstraint"] is None


def objects_carry_their_headers(b):
    s3.put_object(
        Bucket=b, Key="dir/ä b+c%.txt", Body=b"hello", ContentType="text/plain", CacheControl="no-cache",
        ContentDisposition="attachment", ContentEncoding="identity", ContentLanguage="de", StorageClass="STANDARD_IA",
        Metadata={"Owner": "ana", "file-mode": "0100644"}, Expires="Thu, 01 Dec 2033 16:00:00 GMT",
    )
    head = s3.head_object(Bucket=b, Key="dir/ä b+c%.txt")
    assert head["ContentType"] == "text/plain" and head["CacheControl"] == "no-cache", head
    assert head["ContentDisposition"] == "attachment" and head["ContentLanguage"] == "de", head
    assert head["Metadata"] == {"owner": "ana", "file-mode": "0100644"}, head
    assert head["StorageClass"] == "STANDARD_IA" and head["ContentLength"] == 5, head
    assert head["ETag"] == '"%s"' % hashlib.md5(b"hello").hexdigest()
    assert head["ExpiresString"] == "Thu, 01 Dec 2033 16:00:00 GMT", head
    plain = s3.put_object(Bucket=b, Key="plain", Body=b"")
    assert s3.head_object(Bucket=b, Key="plain")["ContentType"] == "binary/octet-stream", plain
    words = {"plain": "two words", "encoded": "=?UTF-8?B?Z3LDvG4=?="}
    s3.put_object(Bucket=b, Key="words", Body=b"", Metadata=words)
    assert s3.head_object(Bucket=b, Key="words")["Metadata"] == words
    fails("MetadataTooLarge", s3.put_object, Bucket=b, Key="big", Body=b"", Metadata={"k": "v" * 2100})
    fails("KeyTooLongError", s3.put_object, Bucket=b, Key="k" * 1025, Body=b"")
    fails("404", s3.head_object, Bucket=b, Key="nothing")
    fails("NoSuchKey", s3.get_object, Bucket=b, Key="nothing")


def ranges(b):
    data = noise(1, 3 * MIB + 5)
    s3.put_object(Bucket=b, Key="r", Body=data)
    assert body(Bucket=b, Key="r") == data
    assert body(Bucket=b, Key="r", Range="bytes=0-0") == data[:1]
    assert body(Bucket=b, Key="r", Range="bytes=1000000-2999999") == data[1000000:3000000]
    assert body(Bucket=b, Key="r", Range="bytes=3000000-") == data[3000000:]
    got = s3.get_object(Bucket=b, Key="r", Range="bytes=-7")
    assert got["Body"].read() == data[-7:] and got["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert got["ContentRange"] == f"bytes {len(data) - 7}-{len(data) - 1}/{len(data)}", got
    assert body(Bucket=b, Key="r", Range="bytes=3145730-99999999") == data[3145730:]
    fails("InvalidRange", s3.get_object, Bucket=b, Key="r", Range="bytes=99999999-")


def conditions(b):
    etag = s3.put_object(Bucket=b, Key="c", Body=b"1", IfNoneMatch="*")["ETag"]
    fails("PreconditionFailed", s3.put_object, Bucket=b, Key="c", Body=b"2", IfNoneMatch="*")
    fails("PreconditionFailed", s3.put_object, Bucket=b, Key="c", Body=b"2", IfMatch='"0"')
    fails("NoSuchKey", s3.put_object, Bucket=b, Key="absent", Body=b"2", IfMatch=etag)
    modified = s3.head_object(Bucket=b, Key="c")["LastModified"]
    fails("304", s3.head_object, Bucket=b, Key="c", IfNoneMatch=etag)
    answer = fails("304", s3.get_object, Bucket=b, Key="c", IfModifiedSince=modified)
    assert answer["ResponseMetadata"]["HTTPHeaders"]["etag"] == etag, answer
    fails("PreconditionFailed", s3.get_object, Bucket=b, Key="c", IfMatch='"0"')
    assert body(Bucket=b, Key="c", IfMatch=etag, IfUnmodifiedSince=modified) == b"1"
    new = s3.put_object(Bucket=b, Key="c", Body=b"2", IfMatch=etag)["ETag"]
    fails("PreconditionFailed", s3.delete_object, Bucket=b, Key="c", IfMatch=etag)
    s3.delete_object(Bucket=b, Key="c", IfMatch=new)
    s3.delete_object(Bucket=b, Key="c")


def checksums(b):
    data = noise(2, 100_000)
    for name in ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"]:
        if name in ("CRC32C", "CRC64NVME"):
            continue  # boto3 computes these with an extra package only
        put = s3.put_object(Bucket=b, Key=name, Body=data, ChecksumAlgorithm=name)
        head = s3.head_object(Bucket=b, Key=name, ChecksumMode="ENABLED")
        assert head["Checksum" + name] == put["Checksum" + name], name
        assert body(Bucket=b, Key=name, ChecksumMode="ENABLED") == data
    sha256 = base64.b64encode(hashlib.sha256(data).digest()).decode()
    s3.put_object(Bucket=b, Key="sha", Body=data, ChecksumSHA256=sha256)
    wrong = base64.b64encode(bytes(32)).decode()
    fails("BadDigest", s3.put_object, Bucket=b, Key="sha", Body=data, ChecksumSHA256=wrong)
    crc64 = s3.put_object(Bucket=b, Key="nine", Body=b"123456789", ChecksumCRC64NVME="rosUhgp5mIg=")
    assert crc64["ChecksumCRC64NVME"] == "rosUhgp5mIg=", crc64
    md5 = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    fails("BadDigest", s3.put_object, Bucket=b, Key="sha", Body=data, ContentMD5=md5)
    assert body(Bucket=b, Key="sha") == data
    got = s3.get_object_attributes(Bucket=b, Key="sha", ObjectAttributes=["ETag", "Checksum", "ObjectSize", "StorageClass"])
    assert got["ObjectSize"] == 100_000 and got["Checksum"]["ChecksumSHA256"] == sha256, got


def listings(b):
    keys = sorted([f"l/{a}/{n}" for a in "abc" for n in range(5)] + ["l/", "l/a", "l/a+b", "l/ä", "l/z z"], key=str.encode)
    for key in keys:
        s3.put_object(Bucket=b, Key=key, Body=b"x")
    for call in ["list_objects", "list_objects_v2"]:
        for size in [1, 2, 7, 1000]:
            pages = list(s3.get_paginator(call).paginate(Bucket=b, Prefix="l/", PaginationConfig={"PageSize": size}))
            assert [o["Key"] for page in pages for o in page.get("Contents", [])] == keys, (call, size)
            pages = list(s3.get_paginator(call).paginate(Bucket=b, Prefix="l/", Delimiter="/", PaginationConfig={"PageSize": size}))
            assert [p["Prefix"] for page in pages for p in page.get("CommonPrefixes", [])] == ["l/a/", "l/b/", "l/c/"], (call, size)
            flat = [o["Key"] for page in pages for o in page.get("Contents", [])]
            assert flat == [key for key in keys if "/" not in key[2:]], (call, size, flat)
    after = s3.list_objects_v2(Bucket=b, Prefix="l/", StartAfter="l/c/2", FetchOwner=True)
    assert [o["Key"] for o in after["Contents"]] == [key for key in keys if key.encode() > b"l/c/2"], after
    assert "Owner" in after["Contents"][0] and after["KeyCount"] == len(after["Contents"])
    deleted = s3.delete_objects(Bucket=b, Delete={"Objects": [{"Key": key} for key in keys + ["never"]]})
    assert len(deleted["Deleted"]) == len(keys) + 1 and not deleted.get("Errors"), deleted
    assert s3.list_objects_v2(Bucket=b, Prefix="l/")["KeyCount"] == 0


def copies(b):
    data = noise(3, 200_000)
    etag = s3.put_object(Bucket=b, Key="from ä", Body=data, Metadata={"a": "1"}, ContentType="text/x")["ETag"]
    source = {"Bucket": b, "Key": "from ä"}
    s3.copy_object(Bucket=b, Key="to", CopySource=source, CopySourceIfMatch=etag)
    head = s3.head_object(Bucket=b, Key="to")
    assert head["Metadata"] == {"a": "1"} and head["ContentType"] == "text/x" and body(Bucket=b, Key="to") == data
    s3.copy_object(Bucket=b, Key="to", CopySource=source, MetadataDirective="REPLACE", Metadata={"b": "2"})
    assert s3.head_object(Bucket=b, Key="to")["Metadata"] == {"b": "2"}
    fails("PreconditionFailed", s3.copy_object, Bucket=b, Key="to", CopySource=source, CopySourceIfMatch='"0"')
    fails("PreconditionFailed", s3.copy_object, Bucket=b, Key="to", CopySource=source, CopySourceIfNoneMatch=etag)
    fails("NoSuchKey", s3.copy_object, Bucket=b, Key="to", CopySource={"Bucket": b, "Key": "nothing"})
    fails("InvalidRequest", s3.copy_object, Bucket=b, Key="from ä", CopySource=source)
    s3.copy_object(Bucket=b, Key="from ä", CopySource=source, MetadataDirective="REPLACE", Metadata={"touched": "1"})
    s3.delete_object(Bucket=b, Key="from ä")
    assert body(Bucket=b, Key="to") == data


def multipart(b):
    parts = [noise(10, 6 * MIB), noise(11, 5 * MIB), noise(12, 77)]
    upload = s3.create_multipart_upload(Bucket=b, Key="m", Metadata={"a": "1"}, ContentType="text/m")["UploadId"]
    where = {"Bucket": b, "Key": "m", "UploadId": upload}
    sent = []
    for number, data in enumerate(parts, 1):
        etag = s3.upload_part(PartNumber=number, Body=data, **where)["ETag"]
        assert etag == '"%s"' % hashlib.md5(data).hexdigest()
        sent.append({"PartNumber": number, "ETag": etag})
    listed = s3.list_parts(MaxParts=2, **where)
    assert [p["PartNumber"] for p in listed["Parts"]] == [1, 2] and listed["IsTruncated"], listed
    assert [u["UploadId"] for u in s3.list_multipart_uploads(Bucket=b)["Uploads"]] == [upload]
    fails("InvalidPartOrder", s3.complete_multipart_upload, MultipartUpload={"Parts": sent[::-1]}, **where)
    wrong = [dict(sent[0], ETag='"0"')]
    fails("InvalidPart", s3.complete_multipart_upload, MultipartUpload={"Parts": wrong}, **where)
    done = s3.complete_multipart_upload(MultipartUpload={"Parts": sent}, **where)
    md5 = hashlib.md5(b"".join(hashlib.md5(data).digest() for data in parts)).hexdigest()
    assert done["ETag"] == f'"{md5}-3"', done
    assert body(Bucket=b, Key="m") == b"".join(parts)
    head = s3.head_object(Bucket=b, Key="m")
    assert head["Metadata"] == {"a": "1"} and head["ContentType"] == "text/m"
    fails("NoSuchUpload", s3.upload_part, PartNumber=1, Body=b"", **where)
    upload = s3.create_multipart_upload(Bucket=b, Key="small")["UploadId"]
    where = {"Bucket": b, "Key": "small", "UploadId": upload}
    sent = [{"PartNumber": n, "ETag": s3.upload_part(PartNumber=n, Body=b"x", **where)["ETag"]} for n in (1, 2)]
    fails("EntityTooSmall", s3.complete_multipart_upload, MultipartUpload={"Parts": sent}, **where)
    s3.abort_multipart_upload(**where)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=b)
    fails("NoSuchUpload", s3.list_parts, **where)


def part_copies(b):
    old, new = noise(20, 20 * MIB), noise(21, 5 * MIB)
    etag = s3.put_object(Bucket=b, Key="p", Body=old)["ETag"]
    where = {"Bucket": b, "Key": "p", "UploadId": s3.create_multipart_upload(Bucket=b, Key="p")["UploadId"]}
    source = {"CopySource": {"Bucket": b, "Key": "p"}, "CopySourceIfMatch": etag}
    first = s3.upload_part_copy(PartNumber=1, CopySourceRange=f"bytes=0-{6 * MIB - 1}", **source, **where)
    second = s3.upload_part(PartNumber=2, Body=new, **where)
    third = s3.upload_part_copy(PartNumber=3, CopySourceRange=f"bytes={11 * MIB}-{20 * MIB - 1}", **source, **where)
    assert first["CopyPartResult"]["ETag"] == '"%s"' % hashlib.md5(old[: 6 * MIB]).hexdigest()
    etags = [first["CopyPartResult"]["ETag"], second["ETag"], third["CopyPartResult"]["ETag"]]
    parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
    s3.complete_multipart_upload(MultipartUpload={"Parts": parts}, IfMatch=etag, **where)
    assert body(Bucket=b, Key="p") == old[: 6 * MIB] + new + old[11 * MIB :]
    middle = body(Bucket=b, Key="p", Range=f"bytes={6 * MIB - 10}-{11 * MIB + 9}")
    assert middle == old[6 * MIB - 10 : 6 * MIB] + new + old[11 * MIB : 11 * MIB + 10]


def transfers(b):
    data = noise(30, 40 * MIB + 1)
    with open("transfer.bin", "wb") as file:
        file.write(data)
    s3.upload_file("transfer.bin", b, "t")
    s3.download_file(b, "t", "transfer.back")
    with open("transfer.back", "rb") as file:
        assert file.read() == data
    assert s3.head_object(Bucket=b, Key="t")["ETag"].endswith('-6"')


def tags(b):
    s3.put_object(Bucket=b, Key="g", Body=b"", Tagging="a=1&b=x%20y")
    assert s3.get_object_tagging(Bucket=b, Key="g")["TagSet"] == [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "x y"}]
    assert s3.get_object(Bucket=b, Key="g")["TagCount"] == 2
    s3.put_object_tagging(Bucket=b, Key="g", Tagging={"TagSet": [{"Key": "c", "Value": "3"}]})
    assert s3.get_object_tagging(Bucket=b, Key="g")["TagSet"] == [{"Key": "c", "Value": "3"}]
    s3.delete_object_tagging(Bucket=b, Key="g")
    assert s3.get_object_tagging(Bucket=b, Key="g")["TagSet"] == []
    many = [{"Key": str(n), "Value": ""} for n in range(11)]
    fails("InvalidTag", s3.put_object_tagging, Bucket=b, Key="g", Tagging={"TagSet": many})


def versions(b):
    assert "Status" not in s3.get_bucket_versioning(Bucket=b)
    s3.put_object(Bucket=b, Key="v", Body=b"null")
    s3.put_bucket_versioning(Bucket=b, VersioningConfiguration={"Status": "Enabled"})
    assert s3.get_bucket_versioning(Bucket=b)["Status"] == "Enabled"
    one = s3.put_object(Bucket=b, Key="v", Body=b"one")["VersionId"]
    two = s3.put_object(Bucket=b, Key="v", Body=b"two")["VersionId"]
    marker = s3.delete_object(Bucket=b, Key="v")
    assert marker["DeleteMarker"] is True
    gone = fails("NoSuchKey", s3.get_object, Bucket=b, Key="v")
    assert gone["ResponseMetadata"]["HTTPHeaders"]["x-amz-delete-marker"] == "true", gone
    fails("MethodNotAllowed", s3.get_object, Bucket=b, Key="v", VersionId=marker["VersionId"])
    for version, want in [("null", b"null"), (one, b"one"), (two, b"two")]:
        assert body(Bucket=b, Key="v", VersionId=version) == want
    for size in [1, 2, 1000]:
        pages = list(s3.get_paginator("list_object_versions").paginate(Bucket=b, Prefix="v", PaginationConfig={"PageSize": size}))
        found = [(v["VersionId"], v["IsLatest"]) for page in pages for v in page.get("Versions", [])]
        assert found == [(two, False), (one, False), ("null", False)], (size, found)
        markers = [(m["VersionId"], m["IsLatest"]) for page in pages for m in page.get("DeleteMarkers", [])]
        assert markers == [(marker["VersionId"], True)], (size, markers)
    s3.delete_object(Bucket=b, Key="v", VersionId=marker["VersionId"])
    assert body(Bucket=b, Key="v") == b"two"
    s3.delete_object(Bucket=b, Key="v", VersionId=two)
    assert body(Bucket=b, Key="v") == b"one"
    s3.put_bucket_versioning(Bucket=b, VersioningConfiguration={"Status": "Suspended"})
    s3.put_object(Bucket=b, Key="v", Body=b"new null")
    assert body(Bucket=b, Key="v", VersionId="null") == b"new null" and body(Bucket=b, Key="v", VersionId=one) == b"one"
    restored = s3.copy_object(Bucket=b, Key="v", CopySource={"Bucket": b, "Key": "v", "VersionId": one})
    assert restored["CopySourceVersionId"] == one and body(Bucket=b, Key="v") == b"one"
    fails("NoSuchVersion", s3.get_object, Bucket=b, Key="v", VersionId="0000000000000001" if one != "0000000000000001" else "0" * 15 + "2")


def presigned(b):
    s3.put_object(Bucket=b, Key="signed ä", Body=b"by url")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": b, "Key": "signed ä"}, ExpiresIn=60)
    assert urllib.request.urlopen(url).read() == b"by url"
    url = s3.generate_presigned_url("put_object", Params={"Bucket": b, "Key": "signed ä"}, ExpiresIn=60)
    urllib.request.urlopen(urllib.request.Request(url, data=b"put by url", method="PUT"))
    assert body(Bucket=b, Key="signed ä") == b"put by url"
    expired = s3.generate_presigned_url("put_object", Params={"Bucket": b, "Key": "signed ä"}, ExpiresIn=1)
    time.sleep(2.5)
    for bad in [url.split("?")[0], url[:-4] + ("0000" if url[-4:] != "0000" else "1111"), expired]:
        try:
            urllib.request.urlopen(urllib.request.Request(bad, data=b"forged", method="PUT"))
            raise AssertionError("a forged URL was accepted")
        except urllib.error.HTTPError as error:
            assert error.code == 403, error
    assert body(Bucket=b, Key="signed ä") == b"put by url"
    stranger = boto3.client("s3", aws_access_key_id="x", aws_secret_access_key="y")
    fails("InvalidAccessKeyId", stranger.list_buckets)


def what_is_not_built_says_so(b):
    fails("NotImplemented", s3.put_object, Bucket=b, Key="e", Body=b"", ServerSideEncryption="AES256")
    fails("NotImplemented", s3.put_object, Bucket=b, Key="e", Body=b"", ACL="public-read")
    fails("NotImplemented", s3.get_bucket_acl, Bucket=b)
    fails("NotImplemented", s3.get_bucket_lifecycle_configuration, Bucket=b)


CASES = [
    buckets, objects_carry_their_headers, ranges, conditions, checksums, listings, copies, multipart, part_copies, transfers,
    tags, versions, presigned, what_is_not_built_says_so,
]

failed = []
for index, case in enumerate(CASES):
    print("case:", case.__name__, flush=True)
    name = f"bucket-{index}"
    s3.create_bucket(Bucket=name)
    try:
        case(name)
    except Exception:
        traceback.print_exc()
        failed.append(case.__name__)
if failed:
    sys.exit(f"failed: {', '.join(failed)}")
print("all passed")
