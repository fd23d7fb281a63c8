-- Version 2. Principals that enrolled themselves: a keyed hash, and a sealed record.
create table principal (
    hash blob primary key,
    record blob not null
) without rowid;
