/* log: see log.h */
