/* directory: see directory.h */
