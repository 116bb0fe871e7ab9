/* delivery: see delivery.h */
