-- Version 3. What directors share: who acts for all, and facts whose records are opaque to the engine.
create table rezcache.lead (
    role text primary key,
    holder text not null,
    until_ms bigint not null,
    term bigint not null
);
create table rezcache.fact (
    kind smallint not null,
    name text not null collate "C",
    at bigint not null,
    term bigint not null,
    record bytea not null,
    primary key (kind, name)
);
