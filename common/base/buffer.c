/* buffer: see buffer.h */
