/* line: see line.h */
