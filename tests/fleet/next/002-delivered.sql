-- What stands for a migration in tests of upgrades: when a mailbox was last delivered to. Programs of
-- the version before go on calling deliver() and lookup(), which now do what the new ones do.

-- NULL, so that no row is written anew. It may have been there before, and been left by the way back.
ALTER TABLE mailbox ADD COLUMN IF NOT EXISTS delivered_at timestamptz;

ALTER FUNCTION deliver RENAME TO deliver_pointer;
ALTER FUNCTION lookup RENAME TO lookup2;

CREATE FUNCTION deliver2(box bigint, blob uuid, vol bigint, len bigint, head bigint, many boolean,
                         fh bytea, strict boolean, now_ms bigint, grace_ms bigint,
                         past bigint DEFAULT 0, warn bigint[] DEFAULT '{}', waits boolean DEFAULT true,
                         OUT code integer, OUT passed integer) LANGUAGE plpgsql AS $$
BEGIN
    SELECT d.code, d.passed INTO code, passed
      FROM deliver_pointer(box, blob, vol, len, head, many, fh, strict, now_ms, grace_ms, past,
                           warn, waits) d;
    IF code = 0 THEN
        UPDATE mailbox b SET delivered_at = ms_time(now_ms) WHERE b.mailbox_id = box;
    END IF;
END $$;

CREATE FUNCTION deliver(box bigint, blob uuid, vol bigint, len bigint, head bigint, many boolean,
                        fh bytea, strict boolean, now_ms bigint, grace_ms bigint,
                        past bigint DEFAULT 0, warn bigint[] DEFAULT '{}', waits boolean DEFAULT true,
                        OUT code integer, OUT passed integer) LANGUAGE plpgsql AS $$
BEGIN
    SELECT d.code, d.passed INTO code, passed
      FROM deliver2(box, blob, vol, len, head, many, fh, strict, now_ms, grace_ms, past, warn,
                    waits) d;
END $$;

CREATE FUNCTION deliver_each2(boxes bigint[], blobs uuid[], vols bigint[], lens bigint[], heads bigint[],
                              many boolean, fhs bytea[], strict boolean, now_ms bigint,
                              grace_ms bigint, past bigint, warn bigint[], waits boolean)
RETURNS TABLE (code integer, passed integer) LANGUAGE plpgsql AS $$
DECLARE
    told record;
BEGIN
    FOR i IN 1 .. cardinality(boxes) LOOP
        told := deliver2(boxes[i], blobs[i], vols[i], lens[i], heads[i], many, fhs[i], strict, now_ms,
                         grace_ms, past, warn, waits);
        code := told.code;
        passed := told.passed;
        RETURN NEXT;
    END LOOP;
END $$;

CREATE FUNCTION lookup(a text)
RETURNS TABLE (box bigint, box_state smallint, most_octets bigint, most_messages bigint,
               most_size bigint, days smallint, days_read smallint, password text, keys text,
               leads_to text[], is_full boolean)
STABLE LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT * FROM lookup2(a);
END $$;
