-- Version 1. Asset keys and blobs are keyed hashes; records are opaque to the engine.
create table asset (
    key blob primary key,
    record blob not null,
    last_use_day integer not null
) without rowid;
create table named (
    blob blob not null,
    key blob not null,
    primary key (blob, key)
) without rowid;
create index named_by_key on named (key);
create table revocation (
    sequence integer primary key autoincrement,
    kind integer not null,
    value text not null,
    at integer not null,
    unique (kind, value)
);
create table audit (
    sequence integer primary key autoincrement,
    at integer not null,
    action text not null,
    detail text not null
);
create table lease (
    name blob not null,
    window integer not null,
    used integer not null,
    primary key (name, window)
) without rowid;
