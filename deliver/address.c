/* address: see address.h */
