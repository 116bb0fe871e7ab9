/* daemon: see daemon.h */
