/* sasl: see sasl.h */
