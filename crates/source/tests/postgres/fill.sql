-- Everything that a database of the test stack has to bring back.
CREATE SCHEMA "Odd ""schema"" ä.x";
CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s "fine"');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE pair AS (a int, b text);
CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2 * $1';
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN NEW.note := coalesce(NEW.note, 'x;y'); RETURN NEW; END $f$;

CREATE TABLE people (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL,
  feels mood,
  age positive,
  born timestamptz,
  keys uuid[],
  document jsonb,
  photo bytea,
  half numeric,
  real8 float8,
  doubled int GENERATED ALWAYS AS (age * 2) STORED,
  both_ pair,
  span interval
);
INSERT INTO people (name, feels, age, born, keys, document, photo, half, real8, both_, span)
SELECT 'name ' || i || E'\t\n\\ ''"', (ARRAY['sad','ok','it''s "fine"'])[1 + i % 3]::mood, i, timestamptz '1999-12-31 23:59:59.123456+02' + i * interval '1 h',
  ARRAY[md5(i::text)::uuid, NULL], jsonb_build_object('n', i, 'text', repeat('ü', i % 50)), decode(repeat(md5(i::text), i % 20), 'hex'),
  i / 3.0, CASE i % 5 WHEN 0 THEN 'NaN'::float8 WHEN 1 THEN '-Infinity'::float8 ELSE i * 0.1::float8 END, ROW(i, NULL)::pair, i * interval '1 mon 2 days 3.4 s'
FROM generate_series(1, 3000) i;
CREATE INDEX people_name ON people (lower(name));
CREATE UNIQUE INDEX ON people ((document ->> 'n'));
COMMENT ON TABLE people IS 'it''s a table; with "quotes"';
COMMENT ON COLUMN people.name IS 'a column';
CREATE TRIGGER nothing BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();

CREATE TABLE "Odd ""schema"" ä.x"."Tab.le $1 %s" ("Col ""umn" text, "select" serial PRIMARY KEY, note text);
CREATE TRIGGER stamped BEFORE INSERT ON "Odd ""schema"" ä.x"."Tab.le $1 %s" FOR EACH ROW EXECUTE FUNCTION stamp();
INSERT INTO "Odd ""schema"" ä.x"."Tab.le $1 %s" ("Col ""umn", note) VALUES ('ä', NULL), (NULL, ''), ('\N', '\.'), ('', NULL);

CREATE TABLE events (at date NOT NULL, person bigint REFERENCES people (id), what text) PARTITION BY RANGE (at);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2026-07-01');
CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM ('2026-07-01') TO ('2027-01-01') PARTITION BY LIST (what);
CREATE TABLE events_2a PARTITION OF events_2 FOR VALUES IN ('a');
CREATE TABLE events_2x PARTITION OF events_2 DEFAULT;
INSERT INTO events SELECT date '2026-01-01' + i % 365, 1 + i % 3000, chr(97 + i % 4) FROM generate_series(0, 4999) i;
CREATE INDEX ON events (at);

CREATE TABLE by_mood (feels mood, n int) PARTITION BY HASH (feels);
CREATE TABLE by_mood_0 PARTITION OF by_mood FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE by_mood_1 PARTITION OF by_mood FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO by_mood SELECT feels, age FROM people;

CREATE TABLE secret (owner text, line text);
ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
ALTER TABLE secret FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON secret USING (owner = current_user);
INSERT INTO secret VALUES ('app', 'mine'), ('other', 'theirs');

CREATE TABLE parent (a int); CREATE TABLE child (b int) INHERITS (parent);
INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2, 3);
CREATE TABLE no_columns (); INSERT INTO no_columns DEFAULT VALUES; INSERT INTO no_columns DEFAULT VALUES;
CREATE UNLOGGED TABLE quick (a int); INSERT INTO quick SELECT generate_series(1, 10);
CREATE TABLE nothing_in_it (a int);
CREATE TABLE "COPY" ("from" int, "stdin" text); INSERT INTO "COPY" VALUES (1, 'FROM stdin;');
CREATE VIEW adults AS SELECT id, name FROM people WHERE age >= 18;
CREATE MATERIALIZED VIEW per_mood AS SELECT feels, count(*) FROM people GROUP BY feels;
CREATE UNIQUE INDEX ON per_mood (feels);
CREATE RULE ignore AS ON DELETE TO nothing_in_it DO INSTEAD NOTHING;
CREATE SEQUENCE counter START 100 INCREMENT 7; SELECT nextval('counter'), nextval('counter');
CREATE STATISTICS people_stats ON age, feels FROM people;

SELECT lo_from_bytea(4242, decode('00ff5c0a', 'hex')), lo_from_bytea(4243, ''), lo_from_bytea(70000, convert_to(repeat('lifeboat', 400000), 'UTF8'));
COMMENT ON LARGE OBJECT 4242 IS 'a large object';
GRANT SELECT ON LARGE OBJECT 4242 TO reader;
ALTER LARGE OBJECT 70000 OWNER TO app;

ALTER TABLE people OWNER TO app;
GRANT SELECT (name), UPDATE (age) ON people TO reader;
GRANT SELECT ON adults TO PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE app IN SCHEMA public GRANT SELECT ON TABLES TO reader;
REVOKE EXECUTE ON FUNCTION twice(int) FROM PUBLIC;
ALTER TABLE "COPY" REPLICA IDENTITY FULL;
CREATE PUBLICATION everything FOR TABLE people, events;
