/* smtp: see smtp.h */
