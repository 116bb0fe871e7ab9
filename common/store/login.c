/* login: see login.h */
