/* conn: see conn.h */
