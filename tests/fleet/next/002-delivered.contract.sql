-- What programs of the version before alone call.
DROP FUNCTION deliver_each;
DROP FUNCTION deliver;
DROP FUNCTION lookup;
