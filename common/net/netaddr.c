/* netaddr: see netaddr.h */
