-- What programs of the version before alone call.
DROP FUNCTION deliver;
DROP FUNCTION lookup;
