/* proxy: see proxy.h */
