/* fault: see fault.h */
