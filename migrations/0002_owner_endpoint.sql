-- Version 2: which endpoint an owner's bucket is at. Empty: written before this was kept; the next open says it.

PRAGMA user_version = 2;

ALTER TABLE owner ADD COLUMN endpoint TEXT NOT NULL DEFAULT '';
