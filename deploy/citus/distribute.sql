-- Spreads the tables of a schema that `mailfleet init` has made over the machines of a Citus cluster, and the
-- rows that are in them (docs/scaling.md). Run once, on the coordinator, as the owner of the schema:
--     psql -1 -v ON_ERROR_STOP=1 -f distribute.sql DATABASE
-- Made from deploy/citus/tables and the schema by `tests/build/statements.py --write`, which also holds
-- every statement to it. What is not named here stays at the coordinator.

SELECT create_distributed_table('mailbox', 'mailbox_id', colocate_with => 'none');
SELECT create_distributed_table('account', 'mailbox_id', colocate_with => 'mailbox');
SELECT create_distributed_table('message', 'mailbox_id', colocate_with => 'mailbox');
SELECT create_distributed_table('read_mark', 'mailbox_id', colocate_with => 'mailbox');
SELECT create_distributed_table('ledger', 'mailbox_id', colocate_with => 'mailbox');
SELECT create_distributed_table('ledger_past', 'mailbox_id', colocate_with => 'mailbox');
SELECT create_distributed_table('removed', 'mailbox_id', colocate_with => 'mailbox');
SELECT create_distributed_table('undeleted', 'mailbox_id', colocate_with => 'mailbox');
SELECT create_distributed_table('address', 'addr', colocate_with => 'none');
SELECT create_distributed_table('blob_shared', 'blob_id', colocate_with => 'none');
SELECT create_reference_table('volume');
SELECT create_reference_table('domain');

-- What is called where the rows are.
SELECT create_distributed_function('ms_time(bigint)');
SELECT create_distributed_function('grace_end(bigint, bigint)');
SELECT create_distributed_function('passes(bigint, bigint, bigint, bigint)');
SELECT create_distributed_function('room(smallint, bigint, bigint, bigint, bigint, bigint, bigint, bigint)');
SELECT create_distributed_function('filled(bigint, bigint, bigint, bigint)');
SELECT create_distributed_function('threshold(integer, bigint[])');
SELECT create_distributed_function('need_volume(bigint)');
SELECT create_distributed_function('takes_files(bigint)');
SELECT create_distributed_function('ms_id(bigint)');

-- What runs as a whole where the rows of its first argument are.
SELECT create_distributed_function('listing(bigint, bigint)',
                                   'box', colocate_with => 'mailbox');
SELECT create_distributed_function('enroll(bigint, text, text, text)',
                                   'box', colocate_with => 'mailbox');
SELECT create_distributed_function('share(uuid, bigint, bigint, bigint)',
                                   'blob', colocate_with => 'blob_shared');
SELECT create_distributed_function('discard(bigint, uuid, bigint, bigint, bigint, boolean, bigint, bigint, text)',
                                   'box', colocate_with => 'mailbox');
SELECT create_distributed_function('deliver(bigint, uuid, bigint, bigint, bigint, boolean, bytea, boolean, bigint, bigint, bigint, bigint[], boolean)',
                                   'box', colocate_with => 'mailbox');
SELECT create_distributed_function('delivered(bigint, uuid)',
                                   'box', colocate_with => 'mailbox');
SELECT create_distributed_function('known_uidls(bigint, bigint, bigint, text[], uuid[])',
                                   'box', colocate_with => 'mailbox');
SELECT create_distributed_function('supersede(bigint, bigint[], uuid[], bigint, bigint)',
                                   'box', colocate_with => 'mailbox');
SELECT create_distributed_function('import(bigint, bigint, uuid[], bigint[], bigint[], bigint[], text[], uuid[], bytea[], bigint, bigint)',
                                   'box', colocate_with => 'mailbox');
SELECT create_distributed_function('expunge(bigint, bigint[], uuid[], bigint, bigint, text)',
                                   'box', colocate_with => 'mailbox');
SELECT create_distributed_function('prune(bigint, bigint[], uuid[], bigint, bigint, text)',
                                   'box', colocate_with => 'mailbox');
SELECT create_distributed_function('mark_read(bigint, bigint[], uuid[], bigint)',
                                   'box', colocate_with => 'mailbox');
SELECT create_distributed_function('expire(bigint, bigint, bigint, bigint, text)',
                                   'box', colocate_with => 'mailbox');
SELECT create_distributed_function('remove_account(bigint, text, text[], text[], bigint, bigint, text)',
                                   'box', colocate_with => 'mailbox');
SELECT create_distributed_function('restore_account(bigint, bigint)',
                                   'box', colocate_with => 'mailbox');
SELECT create_distributed_function('purge_page(bigint, bigint, bigint, bigint)',
                                   'box', colocate_with => 'mailbox');
SELECT create_distributed_function('purge_end(bigint, bigint, bigint)',
                                   'box', colocate_with => 'mailbox');
SELECT create_distributed_function('remove_mailbox(bigint, bigint, bigint, text)',
                                   'box', colocate_with => 'mailbox');
SELECT create_distributed_function('release(bigint, uuid, bigint, bigint, boolean)',
                                   'box', colocate_with => 'mailbox');
SELECT create_distributed_function('unshare(uuid)',
                                   'blob', colocate_with => 'blob_shared');
SELECT create_distributed_function('forget(uuid)',
                                   'blob', colocate_with => 'blob_shared');
SELECT create_distributed_function('recount(bigint)',
                                   'box', colocate_with => 'mailbox');
SELECT create_distributed_function('expunge_ids(bigint, uuid[], bigint, bigint, text)',
                                   'box', colocate_with => 'mailbox');
SELECT create_distributed_function('refill(bigint, uuid[], bigint[], bigint[], bigint[], bigint[], text[])',
                                   'box', colocate_with => 'mailbox');
