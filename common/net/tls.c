/* tls: see tls.h */
