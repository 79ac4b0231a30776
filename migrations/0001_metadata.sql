-- Tidegate's metadata, version 1: the indexed checkpoint of the log's names and states.
--
-- What the columns mean is in src/store/meta/rows.rs. Numbers of 64 bits are stored as their bits, so one above 2^63 is
-- negative here; those that are ordered by (ids, cookies, sequence numbers, pages) never get there.
-- A migration that is released is never edited: sqlx refuses a database whose migrations differ.

PRAGMA application_id = 1414087749; -- "TIDE"
PRAGMA user_version = 1;            -- the newest migration; a program refuses a database above its own

-- One row. `applies` grows with each transaction.
CREATE TABLE checkpoint (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    position INTEGER NOT NULL,
    applied  INTEGER NOT NULL,
    applies  INTEGER NOT NULL
) STRICT;
INSERT INTO checkpoint (id, position, applied, applies) VALUES (1, 0, 0, 0);

CREATE TABLE node (
    node          INTEGER PRIMARY KEY,
    owner         INTEGER NOT NULL,
    kind          INTEGER NOT NULL,
    mode          INTEGER NOT NULL,
    uid           INTEGER NOT NULL,
    gid           INTEGER NOT NULL,
    links         INTEGER NOT NULL,
    rdev          INTEGER NOT NULL,
    atime_ns      INTEGER NOT NULL,
    mtime_ns      INTEGER NOT NULL,
    ctime_ns      INTEGER NOT NULL,
    birth_ns      INTEGER NOT NULL,
    times_seq     INTEGER NOT NULL,
    blob          INTEGER NOT NULL,
    parent        INTEGER NOT NULL,
    target        BLOB    NOT NULL,
    flags         INTEGER NOT NULL,
    listed_ns     INTEGER NOT NULL,
    source_prefix TEXT,
    cookie_next   INTEGER NOT NULL
) STRICT;
CREATE INDEX node_orphan ON node (owner, node) WHERE links = 0;

CREATE TABLE entry (
    parent INTEGER NOT NULL,
    name   BLOB    NOT NULL,
    node   INTEGER NOT NULL,
    kind   INTEGER NOT NULL,
    cookie INTEGER NOT NULL,
    PRIMARY KEY (parent, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX entry_cookie ON entry (parent, cookie, name);
CREATE INDEX entry_node ON entry (node, parent, name);

CREATE TABLE object (
    owner             INTEGER NOT NULL,
    key               TEXT    NOT NULL,
    node              INTEGER NOT NULL,
    etag              TEXT    NOT NULL,
    version           TEXT,
    size_bytes        INTEGER NOT NULL,
    modified_ns       INTEGER NOT NULL,
    attributes_digest INTEGER NOT NULL,
    content_seq       INTEGER NOT NULL,
    content_digest    BLOB    NOT NULL,
    storage_class     TEXT,
    PRIMARY KEY (owner, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX object_node ON object (node, owner, key);

CREATE TABLE job (
    owner         INTEGER NOT NULL,
    subject       INTEGER NOT NULL,
    since_ns      INTEGER NOT NULL,
    not_before_ns INTEGER NOT NULL,
    attempts      INTEGER NOT NULL,
    error         TEXT    NOT NULL,
    multipart     BLOB    NOT NULL,
    note          BLOB    NOT NULL,
    PRIMARY KEY (owner, subject)
) STRICT;
CREATE INDEX job_since ON job (owner, since_ns, subject);

CREATE TABLE move (
    owner  INTEGER NOT NULL,
    node   INTEGER NOT NULL,
    prefix TEXT    NOT NULL,
    seq    INTEGER NOT NULL,
    PRIMARY KEY (owner, node, prefix)
) STRICT, WITHOUT ROWID;
CREATE INDEX move_seq ON move (owner, seq, node, prefix);

CREATE TABLE xattr (
    node  INTEGER NOT NULL,
    name  BLOB    NOT NULL,
    value BLOB    NOT NULL,
    PRIMARY KEY (node, name)
) STRICT;

CREATE TABLE owner (
    owner  INTEGER PRIMARY KEY,
    kind   TEXT    NOT NULL,
    name   TEXT    NOT NULL,
    bucket TEXT    NOT NULL,
    prefix TEXT    NOT NULL,
    root   INTEGER NOT NULL
) STRICT;

CREATE TABLE value (
    name  TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;

-- Blobs and their pages come with checkpoints, not through the log.
CREATE TABLE blob (
    blob             INTEGER PRIMARY KEY,
    owner            INTEGER NOT NULL,
    len_bytes        INTEGER NOT NULL,
    remote_len_bytes INTEGER NOT NULL,
    clean_through    INTEGER NOT NULL,
    modified_seq     INTEGER NOT NULL,
    modified_ns      INTEGER NOT NULL,
    len_seq          INTEGER NOT NULL,
    source           BLOB    NOT NULL,
    hint             BLOB    NOT NULL,
    flags            INTEGER NOT NULL
) STRICT;
CREATE INDEX blob_dirty ON blob (blob) WHERE modified_seq > clean_through;

CREATE TABLE page (
    blob INTEGER NOT NULL,
    page INTEGER NOT NULL,
    body BLOB    NOT NULL,
    PRIMARY KEY (blob, page)
) STRICT;

-- How much each owner has, kept by triggers so that no start counts millions of rows.
CREATE TABLE tally (
    owner        INTEGER PRIMARY KEY,
    nodes        INTEGER NOT NULL DEFAULT 0,
    objects      INTEGER NOT NULL DEFAULT 0,
    object_bytes INTEGER NOT NULL DEFAULT 0,
    jobs         INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TRIGGER node_added AFTER INSERT ON node BEGIN
    INSERT INTO tally (owner, nodes) VALUES (new.owner, 1)
        ON CONFLICT (owner) DO UPDATE SET nodes = nodes + 1;
END;
CREATE TRIGGER node_removed AFTER DELETE ON node BEGIN
    UPDATE tally SET nodes = nodes - 1 WHERE owner = old.owner;
END;
CREATE TRIGGER node_changed AFTER UPDATE OF owner ON node WHEN old.owner <> new.owner BEGIN
    UPDATE tally SET nodes = nodes - 1 WHERE owner = old.owner;
    INSERT INTO tally (owner, nodes) VALUES (new.owner, 1)
        ON CONFLICT (owner) DO UPDATE SET nodes = nodes + 1;
END;

CREATE TRIGGER object_added AFTER INSERT ON object BEGIN
    INSERT INTO tally (owner, objects, object_bytes) VALUES (new.owner, 1, new.size_bytes)
        ON CONFLICT (owner) DO UPDATE SET objects = objects + 1, object_bytes = object_bytes + new.size_bytes;
END;
CREATE TRIGGER object_removed AFTER DELETE ON object BEGIN
    UPDATE tally SET objects = objects - 1, object_bytes = object_bytes - old.size_bytes WHERE owner = old.owner;
END;
CREATE TRIGGER object_changed AFTER UPDATE OF size_bytes ON object WHEN old.size_bytes <> new.size_bytes BEGIN
    UPDATE tally SET object_bytes = object_bytes + new.size_bytes - old.size_bytes WHERE owner = new.owner;
END;

CREATE TRIGGER job_added AFTER INSERT ON job BEGIN
    INSERT INTO tally (owner, jobs) VALUES (new.owner, 1)
        ON CONFLICT (owner) DO UPDATE SET jobs = jobs + 1;
END;
CREATE TRIGGER job_removed AFTER DELETE ON job BEGIN
    UPDATE tally SET jobs = jobs - 1 WHERE owner = old.owner;
END;
