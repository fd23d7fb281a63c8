-- Version 1. Asset keys and blobs are keyed hashes; records are opaque to the engine.
create table rezcache.asset (
    key bytea primary key,
    record bytea not null,
    last_use_day integer not null
);
create table rezcache.named (
    blob bytea not null,
    key bytea not null,
    primary key (blob, key)
);
create index named_by_key on rezcache.named (key);
create table rezcache.revocation (
    sequence bigint generated always as identity primary key,
    kind smallint not null,
    value text not null,
    at bigint not null,
    unique (kind, value)
);
create table rezcache.audit (
    sequence bigint generated always as identity primary key,
    at bigint not null,
    action text not null,
    detail text not null
);
create table rezcache.lease (
    name bytea not null,
    period bigint not null,
    used bigint not null,
    primary key (name, period)
);
