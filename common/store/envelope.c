/* envelope: see envelope.h */
