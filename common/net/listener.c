/* listener: see listener.h */
