/* session: see session.h */
