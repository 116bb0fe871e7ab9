/*
 * no_portmapper: preloaded into nfs-ganesha, makes its registration with the portmapper succeed
 * without asking one.
 *
 * With NFSv3 ganesha registers with rpcbind and ends where none answers. A private server has no
 * use for it: its clients are told both ports, and a machine may have no rpcbind, or one that
 * belongs to an NFS server of its own, whose entries would be replaced. These two functions stand
 * in front of libntirpc's. It is loaded into ganesha alone, owns nothing and keeps no state.
 */
#include <stdbool.h>

bool rpcb_set(unsigned program, unsigned version, const void *netconf, const void *address);
bool rpcb_unset(unsigned program, unsigned version, const void *netconf);

bool rpcb_set(unsigned program, unsigned version, const void *netconf, const void *address)
{
    (void)program;
    (void)version;
    (void)netconf;
    (void)address;
    return true;
}

bool rpcb_unset(unsigned program, unsigned version, const void *netconf)
{
    (void)program;
    (void)version;
    (void)netconf;
    return true;
}
