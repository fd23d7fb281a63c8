-- Version 3. What directors share: who acts for all, and facts whose records are opaque to the engine.
create table lead (
    role text primary key,
    holder text not null,
    until_ms integer not null,
    term integer not null
) without rowid;
create table fact (
    kind integer not null,
    name text not null,
    at integer not null,
    term integer not null,
    record blob not null,
    primary key (kind, name)
) without rowid;
