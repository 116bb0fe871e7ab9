/* volume: see volume.h */
