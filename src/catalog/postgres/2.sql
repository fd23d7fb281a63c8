-- Version 2. Principals that enrolled themselves: a keyed hash, and a sealed record.
create table rezcache.principal (
    hash bytea primary key,
    record bytea not null
);
