-- The column stays: deliveries under way have the functions of before, and would find it gone.
DROP FUNCTION deliver_each2;
DROP FUNCTION deliver;
DROP FUNCTION deliver2;
DROP FUNCTION lookup;
ALTER FUNCTION deliver_pointer RENAME TO deliver;
ALTER FUNCTION lookup2 RENAME TO lookup;
